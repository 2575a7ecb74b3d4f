// What the CUDA kernels decide by, for host and device alike, so that it can be tested without a GPU.
#pragma once

#include <cstdint>

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

// Screening products in steps of 2^-11, rounded down: 1 or more for every number above -1.5, 0 for NaN.
PYMETANER_BOTH inline std::uint32_t screening_key(float x) {
    return x > -1.5F ? 1U + static_cast<std::uint32_t>((x + 1.5F) * 2048.0F) : 0U;
}

// The least number of a key that is not 0, but for the rounding of x + 1.5, 2^-22.
PYMETANER_BOTH inline float least_of_key(std::uint32_t key) {
    return static_cast<float>(key - 1U) * 0x1p-11F - 1.5F;
}

// Row number `member` of a group of `group` rows, 4 or 16: those whose products a thread has where the tensor cores
// leave them. Four groups interleave in 4 * `group` rows, two neighbouring rows of each in every eight.
PYMETANER_BOTH inline std::int64_t group_row(std::int64_t number, int group, int member) {
    return number / 4 * 4 * group + 8 * (member / 2) + 2 * (number % 4) + member % 2;
}

}  // namespace pymetaner
