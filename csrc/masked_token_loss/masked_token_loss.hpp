// The token loss of Wu et al. (AAAI 2020) and its gradient in one pass.
#pragma once

#include <cstdint>
#include <type_traits>

namespace pymetaner {

// Numbers of 16 bits, by their bits.
struct BFloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

// The type of losses and gradients: float64 for float64 logits, float32 for all others.
template <typename Logit>
using ResultOf = std::conditional_t<std::is_same_v<Logit, double>, double, float>;

// Of each sentence: mean cross-entropy of its counted tokens + lambda_max * the largest of them (the first on ties).
//
// logits: (sentences, tokens, classes), contiguous; labels: (sentences, tokens), contiguous, each a class or
// `ignore_index`, which leaves the token out.
// loss: (sentences); gradient: like logits, d loss[b] / d logits[b]. A sentence without a counted token has loss 0; a
// token that is not counted has gradient 0, whatever its logits hold.
//
// Losses are summed in float64; how exact the gradient is, sentence.hpp tells: within 1e-6 of float64 where a
// token weighs at most 1, for logits of 32 bits or fewer. A sentence is one thread's, so the answer does not
// depend on the number of threads, nor on the instruction set. Throws InvalidInput, naming the place, for a label that
// is neither.
template <typename Logit>
void masked_token_loss(const Logit* logits, const std::int64_t* labels, std::int64_t sentences, std::int64_t tokens,
                       std::int64_t classes, double lambda_max, std::int64_t ignore_index, int threads,
                       ResultOf<Logit>* loss, ResultOf<Logit>* gradient);

}  // namespace pymetaner
