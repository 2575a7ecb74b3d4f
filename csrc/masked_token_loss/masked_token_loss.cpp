// One sentence at a time, so that what one step writes is still in the cache for the next: the counted tokens' logits
// are packed together, all their exponentials are taken in one loop, and each token's loss and softmax follow. The
// largest loss is known only after the last token, so its share of the gradient is multiplied in at the end.
#include "masked_token_loss/masked_token_loss.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "common/elementary.hpp"
#include "common/error.hpp"
#include "common/parallel.hpp"

namespace pymetaner {
namespace {

constexpr std::int64_t kWorthThreads = 20000;  // logits below which starting a thread costs more than it saves
constexpr std::int64_t kChunk = 4096;          // logits, about, that a thread takes at a time

// What a thread keeps of the sentence at hand: its counted tokens, one after another.
struct Counted {
    Counted(std::int64_t tokens, std::int64_t classes)
        : losses(static_cast<std::size_t>(tokens)), rows(static_cast<std::size_t>(tokens * classes)) {}

    std::vector<std::int64_t> places;  // token indices
    std::vector<double> losses;
    std::vector<double> rows;  // exponentials, then gradients
};

void check_label(std::int64_t label, std::int64_t sentence, std::int64_t token, std::int64_t classes,
                 std::int64_t ignore_index) {
    if (label >= 0 && label < classes) return;
    throw InvalidInput("labels[" + std::to_string(sentence) + ", " + std::to_string(token) + "] is " +
                       std::to_string(label) + ": expected a class from 0 to " + std::to_string(classes - 1) +
                       ", or ignore_index (" + std::to_string(ignore_index) + ")");
}

// Sets row i to exp(logits - largest logit) of counted token i, and losses[i] to the largest less the label's logit.
template <typename Real>
void exponentiate(const Real* logits, const std::int64_t* labels, std::int64_t classes, Counted& counted) {
    double* row = counted.rows.data();
    for (std::size_t i = 0; i < counted.places.size(); ++i, row += classes) {
        const Real* const token = logits + counted.places[i] * classes;
        Real largest = token[0];
        for (std::int64_t c = 1; c < classes; ++c) largest = token[c] > largest ? token[c] : largest;
        for (std::int64_t c = 0; c < classes; ++c) row[c] = static_cast<double>(token[c]) - largest;
        counted.losses[i] = -row[labels[counted.places[i]]];
    }
    double* const first = counted.rows.data();
    const std::int64_t count = row - first;
    for (std::int64_t i = 0; i < count; ++i) first[i] = exp_nonpositive(first[i]);
}

// Turns exponentials into weight * (softmax - one at the label) and returns the logarithm of their sum.
double differentiate(double* row, std::int64_t classes, std::int64_t label, double weight) {
    // p - 1 is minus the sum of the other probabilities, which does not cancel where p is nearly 1.
    const double own = row[label];
    row[label] = 0.0;
    double others = 0.0;
    for (std::int64_t c = 0; c < classes; ++c) others += row[c];
    row[label] = -others;
    const double scale = weight / (own + others);
    for (std::int64_t c = 0; c < classes; ++c) row[c] *= scale;
    return log_of_sum(own + others);
}

// The loss of the sentence whose counted tokens are given; fills their rows of the gradient.
template <typename Real>
double sentence_loss(const Real* logits, const std::int64_t* labels, std::int64_t classes, double lambda_max,
                     Counted& counted, Real* gradient) {
    if (counted.places.empty()) return 0.0;
    exponentiate(logits, labels, classes, counted);

    const double share = 1.0 / static_cast<double>(counted.places.size());
    double sum = 0.0;
    std::size_t worst = 0;
    for (std::size_t i = 0; i < counted.places.size(); ++i) {
        double* const row = counted.rows.data() + static_cast<std::int64_t>(i) * classes;
        counted.losses[i] += differentiate(row, classes, labels[counted.places[i]], share);
        sum += counted.losses[i];
        if (counted.losses[i] > counted.losses[worst]) worst = i;
        std::transform(row, row + classes, gradient + counted.places[i] * classes,
                       [](double value) { return static_cast<Real>(value); });
    }
    const double* const row = counted.rows.data() + static_cast<std::int64_t>(worst) * classes;
    std::transform(row, row + classes, gradient + counted.places[worst] * classes,
                   [weight = 1.0 + lambda_max / share](double value) { return static_cast<Real>(value * weight); });
    return sum * share + lambda_max * counted.losses[worst];
}

}  // namespace

template <typename Real>
void masked_token_loss(const Real* logits, const std::int64_t* labels, std::int64_t sentences, std::int64_t tokens,
                       std::int64_t classes, double lambda_max, std::int64_t ignore_index, int threads, Real* loss,
                       Real* gradient) {
    const std::int64_t size = tokens * classes;
    const std::int64_t each = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, size));
    if (sentences * size < kWorthThreads) threads = 1;
    std::fill_n(gradient, sentences * size, Real{0});

    parallel_for((sentences + each - 1) / each, threads, [&](std::int64_t task, int) {
        Counted counted(tokens, classes);
        for (std::int64_t b = task * each; b < std::min(sentences, (task + 1) * each); ++b) {
            const std::int64_t* const own = labels + b * tokens;
            counted.places.clear();
            for (std::int64_t t = 0; t < tokens; ++t) {
                if (own[t] == ignore_index) continue;
                check_label(own[t], b, t, classes, ignore_index);
                counted.places.push_back(t);
            }
            loss[b] = static_cast<Real>(
                sentence_loss(logits + b * size, own, classes, lambda_max, counted, gradient + b * size));
        }
    });
}

template void masked_token_loss<float>(const float*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                                       double, std::int64_t, int, float*, float*);
template void masked_token_loss<double>(const double*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                                        double, std::int64_t, int, double*, double*);

}  // namespace pymetaner
