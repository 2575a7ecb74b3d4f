// What each op adds to the module, and how buffers from Python are checked.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

namespace pymetaner {

void register_cosine_topk(pybind11::module_& module);
void register_masked_token_loss(pybind11::module_& module);

// Throws ValueError unless `array` has elements of type T, aligned and in native byte order, and `dims` dimensions.
template <typename T>
void check_array(const pybind11::array& array, const char* name, int dims) {
    if (array.ndim() == dims && pybind11::isinstance<pybind11::array_t<T>>(array) &&
        reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) == 0) {
        return;
    }
    throw pybind11::value_error(std::string(name) + " has " + std::to_string(array.ndim()) + " dimensions of dtype " +
                                pybind11::str(array.dtype()).cast<std::string>() + ": expected " +
                                std::to_string(dims) + " of " +
                                pybind11::str(pybind11::dtype::of<T>()).cast<std::string>());
}

// The same, and the elements follow each other without a gap, last dimension fastest.
template <typename T>
void check_contiguous(const pybind11::array& array, const char* name, int dims) {
    check_array<T>(array, name, dims);
    if ((array.flags() & pybind11::array::c_style) == 0) {
        throw pybind11::value_error(std::string(name) + " is not contiguous: pass numpy.ascontiguousarray of it");
    }
}

// Throws ValueError unless a vector has this many elements.
inline void check_length(const pybind11::array& array, const char* name, pybind11::ssize_t length) {
    if (array.shape(0) == length) return;
    throw pybind11::value_error(std::string(name) + " has " + std::to_string(array.shape(0)) + " elements: expected " +
                                std::to_string(length));
}

inline void check_threads(int threads) {
    if (threads >= 1) return;
    throw pybind11::value_error("threads is " + std::to_string(threads) + ": expected at least 1");
}

}  // namespace pymetaner
