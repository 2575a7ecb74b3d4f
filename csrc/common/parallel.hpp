// Work shared between threads that live for one call.
#pragma once

#include <cstdint>
#include <functional>

namespace pymetaner {

// Calls body(task, worker) once for every task in [0, tasks), on at most `threads` threads, the caller being worker 0.
// Which worker gets a task is not fixed, so the outcome of a body must not depend on it. Threads that the system
// refuses to start are done without. The first exception thrown by a body is rethrown here once all threads have
// ended; the tasks not begun by then are left.
void parallel_for(std::int64_t tasks, int threads, const std::function<void(std::int64_t task, int worker)>& body);

}  // namespace pymetaner
