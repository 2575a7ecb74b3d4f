// What the CUDA kernels decide by, for host and device alike, so that it can be tested without a GPU.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define PYMETANER_BOTH __host__ __device__
#else
#define PYMETANER_BOTH
#endif

namespace pymetaner {

struct Ranked {
    double score;
    std::int64_t index;
};

// Score descending, index ascending.
PYMETANER_BOTH inline bool ranks_before(const Ranked& a, const Ranked& b) {
    return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// A whole number for each float, in the order of the floats; 0, less than all others, for NaN.
PYMETANER_BOTH inline std::uint32_t order_key(float x) {
    if (x != x) return 0;
    std::uint32_t bits = 0;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The float of a key that is not 0.
PYMETANER_BOTH inline float float_of_key(std::uint32_t key) {
    const std::uint32_t bits = (key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key;
    float x = 0.0F;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// Row number `member` of a group of `group` rows, 4 or 16: those whose products a thread has where the tensor cores
// leave them. Four groups interleave in 4 * `group` rows, two neighbouring rows of each in every eight.
PYMETANER_BOTH inline std::int64_t group_row(std::int64_t number, int group, int member) {
    return number / 4 * 4 * group + 8 * (member / 2) + 2 * (number % 4) + member % 2;
}

}  // namespace pymetaner
