// Eight numbers that are computed together: a vector register of float32 where the compiler has vector types, which
// every instruction set has its own instructions for, else plain loops. Both give the same bits.
//
// Included by the file of each instruction set, with whose `Isa` types are named: see sentence.hpp.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/elementary.hpp"
#include "masked_token_loss/kernels.hpp"

namespace pymetaner {

template <class Isa, typename Real>
struct Eight {
    Real lanes[kLanes];

    void load(const Real* from) { memcpy(lanes, from, sizeof lanes); }
    void store(Real* to) const { memcpy(to, lanes, sizeof lanes); }

    void raise_to(const Eight& other) {
        for (int i = 0; i < kLanes; ++i) lanes[i] = other.lanes[i] > lanes[i] ? other.lanes[i] : lanes[i];
    }

    // e to the power of each less `top`.
    void exponentiate(Real top) {
        for (Real& lane : lanes) lane = exp_nonpositive(lane - top);
    }
    void exponentiate_with(Eight* other, Real top) {
        exponentiate(top);
        other->exponentiate(top);
    }

    // Lane `own` becomes `value`.
    void put(int own, Real value) {
        for (int i = 0; i < kLanes; ++i) lanes[i] = i == own ? value : lanes[i];
    }

    // Lanes before `first` become 0.
    void clear(int first) {
        for (int i = 0; i < kLanes; ++i) lanes[i] = i < first ? Real{0} : lanes[i];
    }

    void scale(Real factor) {
        for (Real& lane : lanes) lane *= factor;
    }
};

// Sums in float64: lane i of every eight is added to sum i mod 4, lanes 0 to 3 first.
template <class Isa, typename Real>
struct FourSums {
    double sums[4] = {};

    void add(const Eight<Isa, Real>& eight) {
        for (int i = 0; i < kLanes; ++i) sums[i % 4] += static_cast<double>(eight.lanes[i]);
    }
};

#if defined(__GNUC__)

#if defined(__has_builtin)  // GCC 12, Clang; by way of memory, two eights become sixteen too slowly to pay
#define PYMETANER_HAS_SHUFFLES __has_builtin(__builtin_shufflevector)
#else
#define PYMETANER_HAS_SHUFFLES 0
#endif

template <class Isa>
struct Eight<Isa, float> {
    typedef float Floats __attribute__((vector_size(32)));
    typedef std::int32_t Integers __attribute__((vector_size(32)));
    typedef float Sixteen __attribute__((vector_size(64)));
    typedef std::int32_t SixteenIntegers __attribute__((vector_size(64)));

    Floats lanes;

    void load(const float* from) { memcpy(&lanes, from, sizeof lanes); }
    void store(float* to) const { memcpy(to, &lanes, sizeof lanes); }
    void raise_to(const Eight& other) { lanes = other.lanes > lanes ? other.lanes : lanes; }
    void exponentiate(float top) {
        lanes = lanes - top;
        exp_nonpositive_of<Floats, Integers>(&lanes);
    }
    // Both at once, for sets that have registers of sixteen.
    void exponentiate_with(Eight* other, float top) {
#if PYMETANER_HAS_SHUFFLES
        Sixteen both =
            __builtin_shufflevector(lanes, other->lanes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        both = both - top;
        exp_nonpositive_of<Sixteen, SixteenIntegers>(&both);
        lanes = __builtin_shufflevector(both, both, 0, 1, 2, 3, 4, 5, 6, 7);
        other->lanes = __builtin_shufflevector(both, both, 8, 9, 10, 11, 12, 13, 14, 15);
#else
        exponentiate(top);
        other->exponentiate(top);
#endif
    }
    void put(int own, float value) { lanes = Integers{0, 1, 2, 3, 4, 5, 6, 7} == own ? value + Floats{} : lanes; }
    void clear(int first) { lanes = Integers{0, 1, 2, 3, 4, 5, 6, 7} < first ? Floats{} : lanes; }
    void scale(float factor) { lanes = lanes * factor; }
};

template <class Isa>
struct FourSums<Isa, float> {
    typedef double Doubles __attribute__((vector_size(32)));

    Doubles sums = {};  // in a register: as an array, GCC would write and read them for every eight

    void add(const Eight<Isa, float>& eight) {
        float narrow[kLanes];
        memcpy(narrow, &eight.lanes, sizeof narrow);
        double wide[kLanes];  // GCC has one instruction for four of these, but takes eight for __builtin_convertvector
        for (int i = 0; i < kLanes; ++i) wide[i] = static_cast<double>(narrow[i]);
        Doubles halves[2];
        memcpy(halves, wide, sizeof halves);
        sums = sums + halves[0];
        sums = sums + halves[1];
    }
};

#endif

}  // namespace pymetaner
