// The sorted lists that the CUDA kernels keep, for host and device alike: what the kernels decide by can be tested
// without a GPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PYMETANER_BOTH __host__ __device__
#else
#define PYMETANER_BOTH
#endif

namespace pymetaner {

template <typename Score>
struct Ranked {
    Score score;
    std::int64_t index;
};

// Score descending, index ascending.
template <typename Score>
PYMETANER_BOTH bool ranks_before(const Ranked<Score>& a, const Ranked<Score>& b) {
    return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// Puts `item` into a sorted list of at most `room`, whose size is `size`. Returns whether something, of score *dropped,
// had to leave or could not come in.
template <typename Score>
PYMETANER_BOTH bool insert(Ranked<Score>* list, int room, int* size, const Ranked<Score>& item, Score* dropped) {
    bool full = false;
    if (*size == room) {
        full = true;
        if (!ranks_before(item, list[room - 1])) {
            *dropped = item.score;
            return true;
        }
        *dropped = list[room - 1].score;
        *size = room - 1;
    }
    int place = *size;
    while (place > 0 && ranks_before(item, list[place - 1])) {
        list[place] = list[place - 1];
        --place;
    }
    list[place] = item;
    ++*size;
    return full;
}

}  // namespace pymetaner
