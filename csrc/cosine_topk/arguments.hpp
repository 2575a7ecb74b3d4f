// What the two bindings of the search share.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "cosine_topk/cosine_topk.hpp"
#include "register.hpp"

namespace pymetaner {

using SearchFunction = std::function<void(const std::int64_t* exclude, float* scores, std::int64_t* indices)>;

// The rows of a float32 matrix; throws ValueError if a row is not contiguous.
Rows rows_of(const pybind11::array& array, const char* name);

// Checks what every search is given, allocates the answer and calls `search` without the GIL.
pybind11::tuple searched(const Rows& queries, const Rows& bank, std::int64_t k,
                         const std::optional<pybind11::array>& exclude, int threads, const SearchFunction& search);

void register_encoded_bank(pybind11::module_& module);

}  // namespace pymetaner
