// What the bindings of the search check before they call it.
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

// An encoded bank: a centre (padded dim), no longer than 1; a norm a row; codes (panels, padded dim / 4, 16, 4); terms
// (panels, 4, 16). Throws ValueError for anything else.
Codes codes_of(const Rows& rows, const pybind11::array& center, const pybind11::array& norms,
               const pybind11::array& codes, const pybind11::array& terms);

// Checks what every search is given, allocates the answer and calls `search` without the GIL.
pybind11::tuple searched(const Rows& queries, const Rows& bank, std::int64_t k,
                         const std::optional<pybind11::array>& exclude, int threads, const SearchFunction& search);

}  // namespace pymetaner
