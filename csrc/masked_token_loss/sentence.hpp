// The loss of one sentence and its gradient, eight tokens at a time.
//
// Each step is done for eight tokens before the next begins: their largest logits, the exponentials, the sums, the
// logarithms, the gradients. A step takes eight classes of a token at a time; where their number is no multiple of
// eight, the last eight overlap those before, so nothing is read or written beyond a row, and lanes that were seen
// before do not count. Exponentials and gradients are in float32 for logits of 32 or 16 bits, sums and losses in
// float64. Lane i of every eight is added to sum i mod 4, and the four sums as (0 + 2) + (1 + 3), so a token has the
// same bits in any batch and instruction set. The largest loss is known only after the last token; its share of the
// gradient is multiplied in at the end.
//
// Included by the file of each instruction set, whose flags make eight lanes its registers. `Isa` is a type of that
// file's own, with `kSixteen`, whether exponentials are taken sixteen at a time, and nothing of the standard library is
// instantiated, so that code for one processor is never linked into what another runs.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>

#include "common/elementary.hpp"
#include "masked_token_loss/eight.hpp"
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

// Where the eight classes begin that follow `done` others. Before the row if it has fewer than eight: see `padded`.
template <class Isa>
std::int64_t begin_of(std::int64_t done, std::int64_t classes) {
    return done + kLanes < classes ? done : classes - kLanes;
}

template <class Isa>
void load(Eight<Isa, float>* lanes, const float* from) {
    lanes->load(from);
}

template <class Isa, typename Logit>
void load(Eight<Isa, ResultOf<Logit>>* lanes, const Logit* from) {
    ResultOf<Logit> wide[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) wide[lane] = widened<Isa>(from[lane]);
    lanes->load(wide);
}

// Where loops over the classes of a token end. kParts: how many times eight they take, or 0 for any number of times.
template <class Isa, int kParts>
inline std::int64_t end_of(std::int64_t classes) {
    return kParts > 0 ? kParts * kLanes : classes;
}

// The largest logit.
template <class Isa, int kParts, typename Logit>
inline ResultOf<Logit> largest_of(const Logit* row, std::int64_t classes) {
    using Real = ResultOf<Logit>;
    Eight<Isa, Real> largest, part;
    load<Isa>(&largest, row + begin_of<Isa>(0, classes));
    for (std::int64_t done = kLanes; done < end_of<Isa, kParts>(classes); done += kLanes) {
        load<Isa>(&part, row + begin_of<Isa>(done, classes));
        largest.raise_to(part);
    }
    Real lanes[kLanes];
    largest.store(lanes);
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
    }
    return lanes[0];
}

// Fills powers with e to each logit less the largest, eight classes after another.
template <class Isa, int kParts, typename Logit>
inline void fill_powers(const Logit* row, std::int64_t classes, ResultOf<Logit> largest, ResultOf<Logit>* powers) {
    Eight<Isa, ResultOf<Logit>> part;
    std::int64_t done = 0;
    if constexpr (Isa::kSixteen) {
        Eight<Isa, ResultOf<Logit>> next;
        for (; done + kLanes < end_of<Isa, kParts>(classes); done += 2 * kLanes) {
            load<Isa>(&part, row + begin_of<Isa>(done, classes));
            load<Isa>(&next, row + begin_of<Isa>(done + kLanes, classes));
            part.exponentiate_with(&next, largest);
            part.store(powers + done);
            next.store(powers + done + kLanes);
        }
    }
    for (; done < end_of<Isa, kParts>(classes); done += kLanes) {
        load<Isa>(&part, row + begin_of<Isa>(done, classes));
        part.exponentiate(largest);
        part.store(powers + done);
    }
}

// Where a class is among `width` powers, of which the last eight are those of the last eight classes.
template <class Isa>
inline std::int64_t place_of(std::int64_t label, std::int64_t classes, std::int64_t width) {
    return label + (label < width - kLanes ? 0 : width - classes);
}

// The sum of the powers of all classes but the label.
template <class Isa, int kParts, typename Real>
inline double sum_of_others(const Real* powers, std::int64_t classes, std::int64_t label) {
    Eight<Isa, Real> part;
    FourSums<Isa, Real> four;
    for (std::int64_t done = 0; done < end_of<Isa, kParts>(classes); done += kLanes) {
        const std::int64_t begin = begin_of<Isa>(done, classes);
        part.load(powers + done);
        part.put(static_cast<int>(label - begin), Real{0});
        if (begin < done) part.clear(static_cast<int>(done - begin));
        four.add(part);
    }
    return (four.sums[0] + four.sums[2]) + (four.sums[1] + four.sums[3]);
}

// The gradient of a token: scale times its powers, and -others at the label.
template <class Isa, int kParts, typename Real>
inline void write_gradient(const Real* powers, std::int64_t classes, std::int64_t label, Real scale, Real others,
                           Real* row) {
    Eight<Isa, Real> part;
    for (std::int64_t done = 0; done < end_of<Isa, kParts>(classes); done += kLanes) {
        const std::int64_t begin = begin_of<Isa>(done, classes);
        part.load(powers + done);
        part.put(static_cast<int>(label - begin), -others);
        part.scale(scale);
        part.store(row + begin);
    }
}

// The losses of tokens places[0] to places[count - 1], count <= kTokens, and weight times the gradient of each.
template <class Isa, int kParts, typename Logit>
void eight_tokens(const Sentence<Logit>& sentence, const std::int64_t* places, int count, double weight,
                  double* losses) {
    using Real = ResultOf<Logit>;
    const std::int64_t classes = sentence.classes;
    const std::int64_t width = kParts > 0 ? kParts * kLanes : (classes + kLanes - 1) / kLanes * kLanes;
    const std::int64_t missing = kParts < 2 && classes < kLanes ? kLanes - classes : 0;
    Logit padded[kTokens][kLanes];  // rows of fewer than eight classes, with as many of the first before them
    const Logit* rows[kTokens];
    std::int64_t labels[kTokens];
    Real largest[kTokens];
    double others[kTokens] = {}, sums[kTokens] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < kTokens; ++i) losses[i] = 0.0;
    for (int i = 0; i < count; ++i) {
        labels[i] = sentence.labels[places[i]];
        rows[i] = sentence.logits + places[i] * classes;
        if (missing > 0) {
            for (int c = 0; c < kLanes; ++c) padded[i][c] = rows[i][c < missing ? 0 : c - missing];
            rows[i] = padded[i] + missing;
        }
        largest[i] = largest_of<Isa, kParts>(rows[i], classes);
        losses[i] = static_cast<double>(largest[i]) - static_cast<double>(widened<Isa>(rows[i][labels[i]]));
    }
    for (int i = 0; i < count; ++i) fill_powers<Isa, kParts>(rows[i], classes, largest[i], sentence.block + i * width);
    for (int i = 0; i < count; ++i) {
        const Real* const powers = sentence.block + i * width;
        others[i] = sum_of_others<Isa, kParts>(powers, classes, labels[i]);
        sums[i] = static_cast<double>(powers[place_of<Isa>(labels[i], classes, width)]) + others[i];
    }
    Real scales[kTokens];
    for (int i = 0; i < kTokens; ++i) {
        losses[i] += log_of_sum(sums[i]);
        scales[i] = static_cast<Real>(weight / sums[i]);
    }
    for (int i = 0; i < count; ++i) {
        // p - 1 at the label is minus the sum of the other probabilities, which does not cancel where p is nearly 1.
        const auto rest = static_cast<Real>(others[i]);
        Real* const row = sentence.gradient + places[i] * classes;
        Real written[kLanes];
        Real* const out = missing > 0 ? written + missing : row;
        write_gradient<Isa, kParts>(sentence.block + i * width, classes, labels[i], scales[i], rest, out);
        for (std::int64_t c = 0; missing > 0 && c < classes; ++c) row[c] = out[c];
    }
}

template <class Isa, int kParts, typename Logit>
double loss_in_parts(const Sentence<Logit>& sentence) {
    const double share = 1.0 / static_cast<double>(sentence.count);
    double sum = 0.0;
    double largest = 0.0;
    std::int64_t worst = -1;
    for (std::int64_t first = 0; first < sentence.count; first += kTokens) {
        const std::int64_t left = sentence.count - first;
        const int count = left < kTokens ? static_cast<int>(left) : kTokens;
        double losses[kTokens];
        eight_tokens<Isa, kParts>(sentence, sentence.places + first, count, share, losses);
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
    // Without a max term an infinite loss stays one: 0 times it would be NaN.
    return sum * share + (sentence.lambda_max > 0.0 ? sentence.lambda_max * largest : 0.0);
}

// The loss of a sentence; fills its gradient. See masked_token_loss.hpp. Most label schemes have 16 classes or fewer,
// for which loops of known length take a tenth less time.
template <class Isa, typename Logit>
double sentence_loss(const Sentence<Logit>& sentence) {
    if (sentence.classes <= kLanes) return loss_in_parts<Isa, 1>(sentence);
    if (sentence.classes <= 2 * kLanes) return loss_in_parts<Isa, 2>(sentence);
    return loss_in_parts<Isa, 0>(sentence);
}

template <class Isa>
constexpr LossKernels loss_of() {
    return {&sentence_loss<Isa, float>, &sentence_loss<Isa, double>, &sentence_loss<Isa, BFloat16>,
            &sentence_loss<Isa, Float16>};
}

}  // namespace pymetaner
