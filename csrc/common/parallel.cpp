#include "common/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace pymetaner {

void parallel_for(std::int64_t tasks, int threads, const std::function<void(std::int64_t, int)>& body) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;

    const auto work = [&](int worker) {
        try {
            for (std::int64_t task = next++; task < tasks; task = next++) body(task, worker);
        } catch (...) {
            next = tasks;
            const std::lock_guard<std::mutex> lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };

    const auto helpers = static_cast<int>(std::min<std::int64_t>(tasks, threads)) - 1;
    std::vector<std::thread> pool;
    pool.reserve(static_cast<std::size_t>(std::max(helpers, 0)));
    try {
        for (int worker = 1; worker <= helpers; ++worker) pool.emplace_back(work, worker);
    } catch (...) {
        // No more threads, or no memory for them: those that started, and the caller, do all of it.
    }
    work(0);
    for (std::thread& thread : pool) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace pymetaner
