// The token loss of Wu et al. (AAAI 2020) and its gradient in one pass.
#pragma once

#include <cstdint>

namespace pymetaner {

// Of each sentence: mean cross-entropy of its counted tokens + lambda_max * the largest of them (the first on ties).
//
// logits: (sentences, tokens, classes), contiguous; labels: (sentences, tokens), contiguous, each a class or
// `ignore_index`, which leaves the token out.
// loss: (sentences); gradient: like logits, d loss[b] / d logits[b]. A sentence without a counted token has loss 0; a
// token that is not counted has gradient 0, whatever its logits hold.
//
// Everything is computed in float64 and rounded once; a sentence is one thread's, so the answer does not depend on
// the number of threads. Throws InvalidInput, naming the place, for a label that is neither.
template <typename Real>
void masked_token_loss(const Real* logits, const std::int64_t* labels, std::int64_t sentences, std::int64_t tokens,
                       std::int64_t classes, double lambda_max, std::int64_t ignore_index, int threads, Real* loss,
                       Real* gradient);

extern template void masked_token_loss<float>(const float*, const std::int64_t*, std::int64_t, std::int64_t,
                                              std::int64_t, double, std::int64_t, int, float*, float*);
extern template void masked_token_loss<double>(const double*, const std::int64_t*, std::int64_t, std::int64_t,
                                               std::int64_t, double, std::int64_t, int, double*, double*);

}  // namespace pymetaner
