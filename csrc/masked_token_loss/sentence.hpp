// The loss of one sentence and its gradient, eight tokens at a time.
//
// The logits of eight counted tokens are transposed, so that each token has a lane of its own and every step is the
// same for all: the largest logit, the exponentials, their sum, the logarithm. Exponentials and gradients are in
// float32 for logits of 32 or 16 bits, sums and losses in float64. A lane adds its classes in ascending order and lanes
// never meet, so a token has the same bits in any lane, batch and instruction set. The largest loss is known only after
// the last token; its share of the gradient is multiplied in at the end.
//
// Included by the file of each instruction set, whose flags turn the loops over lanes into its vectors: plain loops are
// all it takes. `Isa` is a type of that file's own, and nothing of the standard library is instantiated, so that code
// for one processor is never linked into what another runs.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/elementary.hpp"
#include "masked_token_loss/kernels.hpp"

namespace pymetaner {

template <class Isa>
float widened(float x) {
    return x;
}

template <class Isa>
double widened(double x) {
    return x;
}

template <class Isa>
float widened(BFloat16 x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
    float value = 0.0F;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class Isa>
float widened(Float16 x) {
    // Exponent and fraction move to their places; the product makes up for the other bias, denormals included.
    const std::uint32_t magnitude = static_cast<std::uint32_t>(x.bits & 0x7FFF) << 13;
    float value = 0.0F;
    memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112F;
    std::uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    if (magnitude >= 0x0F800000U) bits = magnitude | 0x7F800000U;  // infinities and NaN
    bits |= static_cast<std::uint32_t>(x.bits & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The losses of tokens places[0] to places[count - 1], count <= kTokens, and weight times the gradient of each.
template <class Isa, typename Logit>
void eight_tokens(const Sentence<Logit>& sentence, const std::int64_t* places, int count, double weight,
                  double* losses) {
    using Real = ResultOf<Logit>;
    const std::int64_t classes = sentence.classes;
    Real* const __restrict block = sentence.block;
    std::int64_t labels[kTokens];
    for (int lane = 0; lane < kTokens; ++lane) {
        const std::int64_t place = places[lane < count ? lane : 0];  // lanes without a token repeat the first
        const Logit* const row = sentence.logits + place * classes;
        for (std::int64_t c = 0; c < classes; ++c) block[c * kTokens + lane] = widened<Isa>(row[c]);
        labels[lane] = sentence.labels[place] * kTokens + lane;
    }

    Real largest[kTokens];
    for (int lane = 0; lane < kTokens; ++lane) largest[lane] = block[lane];
    for (std::int64_t i = kTokens; i < classes * kTokens; i += kTokens) {
        for (int lane = 0; lane < kTokens; ++lane) {
            largest[lane] = block[i + lane] > largest[lane] ? block[i + lane] : largest[lane];
        }
    }
    for (int lane = 0; lane < kTokens; ++lane) {
        losses[lane] = static_cast<double>(largest[lane]) - static_cast<double>(block[labels[lane]]);
    }
    for (std::int64_t i = 0; i < classes * kTokens; i += kTokens) {
        for (int lane = 0; lane < kTokens; ++lane) block[i + lane] = exp_nonpositive(block[i + lane] - largest[lane]);
    }

    // p - 1 at the label is minus the sum of the other probabilities, which does not cancel where p is nearly 1.
    double own[kTokens], others[kTokens] = {};
    for (int lane = 0; lane < kTokens; ++lane) {
        own[lane] = block[labels[lane]];
        block[labels[lane]] = Real{0};
    }
    for (std::int64_t i = 0; i < classes * kTokens; i += kTokens) {
        for (int lane = 0; lane < kTokens; ++lane) others[lane] += static_cast<double>(block[i + lane]);
    }
    for (int lane = 0; lane < kTokens; ++lane) block[labels[lane]] = static_cast<Real>(-others[lane]);
    Real scales[kTokens];
    for (int lane = 0; lane < kTokens; ++lane) {
        const double sum = own[lane] + others[lane];
        losses[lane] += log_of_sum(sum);
        scales[lane] = static_cast<Real>(weight / sum);
    }
    for (std::int64_t i = 0; i < classes * kTokens; i += kTokens) {
        for (int lane = 0; lane < kTokens; ++lane) block[i + lane] *= scales[lane];
    }
    for (int lane = 0; lane < count; ++lane) {
        Real* const row = sentence.gradient + places[lane] * classes;
        for (std::int64_t c = 0; c < classes; ++c) row[c] = block[c * kTokens + lane];
    }
}

// The loss of a sentence; fills its gradient. See masked_token_loss.hpp.
template <class Isa, typename Logit>
double sentence_loss(const Sentence<Logit>& sentence) {
    const double share = 1.0 / static_cast<double>(sentence.count);
    double sum = 0.0;
    double largest = 0.0;
    std::int64_t worst = -1;
    for (std::int64_t first = 0; first < sentence.count; first += kTokens) {
        const std::int64_t left = sentence.count - first;
        const int count = left < kTokens ? static_cast<int>(left) : kTokens;
        double losses[kTokens];
        eight_tokens<Isa>(sentence, sentence.places + first, count, share, losses);
        for (int lane = 0; lane < count; ++lane) {
            sum += losses[lane];
            if (worst < 0 || losses[lane] > largest) {
                largest = losses[lane];
                worst = sentence.places[first + lane];
            }
        }
    }
    using Real = ResultOf<Logit>;
    const auto factor = static_cast<Real>(1.0 + sentence.lambda_max / share);
    Real* const row = sentence.gradient + worst * sentence.classes;
    for (std::int64_t c = 0; c < sentence.classes; ++c) row[c] *= factor;
    return sum * share + sentence.lambda_max * largest;
}

template <class Isa>
constexpr LossKernels loss_of() {
    return {&sentence_loss<Isa, float>, &sentence_loss<Isa, double>, &sentence_loss<Isa, BFloat16>,
            &sentence_loss<Isa, Float16>};
}

}  // namespace pymetaner
