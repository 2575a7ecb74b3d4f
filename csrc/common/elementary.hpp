// The exponential and the logarithm that the loss needs, from additions, multiplications and divisions alone: unlike
// those of the C library they have the same bits on every machine, and loops over them become vector code. Static, so
// that each file has them in its own instruction set.
#pragma once

#include <cstdint>
#include <cstring>

namespace pymetaner {

// e^x for x <= 0, relative error below 3e-16; 0 below -708, where the result would be almost denormal; NaN for NaN.
static inline double exp_nonpositive(double x) {
    constexpr double log2_e = 1.4426950408889634;
    constexpr double ln2_high = 0.693147180369123816490;  // the last 21 bits are 0, so n * ln2_high is exact
    constexpr double ln2_low = 1.90821492927058770002e-10;
    constexpr double round = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
    constexpr double smallest = -708.0;

    // x = n ln 2 + r with |r| <= ln 2 / 2.
    const double inside = x < smallest ? smallest : x;
    const double rounded = inside * log2_e + round;
    const double n = rounded - round;
    const double r = (inside - n * ln2_high) - n * ln2_low;

    // The series of e^r up to r^12 / 12!: what is left out is below 2e-16.
    double power = 1.0 / 479001600;
    power = power * r + 1.0 / 39916800;
    power = power * r + 1.0 / 3628800;
    power = power * r + 1.0 / 362880;
    power = power * r + 1.0 / 40320;
    power = power * r + 1.0 / 5040;
    power = power * r + 1.0 / 720;
    power = power * r + 1.0 / 120;
    power = power * r + 1.0 / 24;
    power = power * r + 1.0 / 6;
    power = power * r + 0.5;
    power = power * r + 1.0;
    power = power * r + 1.0;

    std::uint64_t bits = 0;
    std::memcpy(&bits, &rounded, sizeof bits);
    bits = (bits + 1023) << 52;  // the exponent of 2^n
    double scale = 0.0;
    std::memcpy(&scale, &bits, sizeof scale);
    return x < smallest ? 0.0 : power * scale;
}

// The same in float32: relative error below 2.5e-7; 0 below -87. Of one float, or of a vector of them with as many
// integers of 32 bits.
template <typename Floats, typename Integers>
static inline void exp_nonpositive_of(Floats* argument) {
    constexpr float log2_e = 1.44269504F;
    constexpr float ln2_high = 0.693359375F;  // the last 15 bits are 0, so n * ln2_high is exact
    constexpr float ln2_low = -2.12194440e-4F;
    constexpr float round = 12582912.0F;  // 1.5 * 2^23
    constexpr float smallest = -87.0F;

    const Floats x = *argument;
    const Floats inside = x < smallest ? smallest + Floats{} : x;
    const Floats rounded = inside * log2_e + round;
    const Floats n = rounded - round;
    const Floats r = (inside - n * ln2_high) - n * ln2_low;

    // The series of e^r up to r^7 / 7!: what is left out is below 6e-9. In pairs of terms, so that less of it waits.
    const Floats square = r * r;
    Floats power = (r * (1.0F / 5040) + 1.0F / 720) * square + (r * (1.0F / 120) + 1.0F / 24);
    power = power * square + (r * (1.0F / 6) + 0.5F);
    power = power * square + (r + 1.0F);

    Integers bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    bits = (bits + 127) << 23;  // the exponent of 2^n
    Floats scale;
    std::memcpy(&scale, &bits, sizeof scale);
    *argument = x < smallest ? Floats{} : power * scale;
}

static inline float exp_nonpositive(float x) {
    exp_nonpositive_of<float, std::uint32_t>(&x);
    return x;
}

// The natural logarithm of a finite x >= 1, absolute error below 1e-15 while x is below 1000; NaN for NaN.
static inline double log_of_sum(double x) {
    constexpr double ln2 = 0.69314718055994530942;
    constexpr std::uint64_t half_sqrt2 = 0x3FE6A09E667F3BCDU;  // bits of sqrt(2) / 2

    // x = 2^n m with sqrt(2) / 2 <= m < sqrt(2).
    std::uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    std::uint64_t n = (bits - half_sqrt2) >> 52;
    bits -= n << 52;
    double m = 0.0;
    std::memcpy(&m, &bits, sizeof m);

    n += 0x4330000000000000U;  // the bits of 2^52 + n, since not every instruction set turns 64-bit integers into
                               // doubles
    double exponent = 0.0;
    std::memcpy(&exponent, &n, sizeof exponent);
    exponent -= 4503599627370496.0;

    // ln m = 2 artanh s = 2 (s + s^3 / 3 + s^5 / 5 + ...) with |s| < 0.172: what is left out after s^21 is below 1e-18.
    // In pairs of terms, as above.
    const double s = (m - 1.0) / (m + 1.0);
    const double square = s * s;
    const double fourth = square * square;
    double series = (1.0 / 21 * square + 1.0 / 19) * fourth + (1.0 / 17 * square + 1.0 / 15);
    series = series * fourth + (1.0 / 13 * square + 1.0 / 11);
    series = series * fourth + (1.0 / 9 * square + 1.0 / 7);
    series = series * fourth + (1.0 / 5 * square + 1.0 / 3);
    return exponent * ln2 + (2.0 * s + 2.0 * s * square * series) + (x - x);
}

}  // namespace pymetaner
