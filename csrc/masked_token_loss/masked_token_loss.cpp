// One sentence at a time: log-sum-exp, loss and softmax of each counted token, then the weights of the tokens, which
// need the count and the place of the largest loss, are multiplied in while the gradient is still in the cache.
#include "masked_token_loss/masked_token_loss.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/parallel.hpp"

namespace pymetaner {
namespace {

constexpr std::int64_t kWorthThreads = 20000;  // logits below which starting a thread costs more than it saves
constexpr std::int64_t kChunk = 4096;          // logits, about, that a thread takes at a time

void check_label(std::int64_t label, std::int64_t sentence, std::int64_t token, std::int64_t classes,
                 std::int64_t ignore_index) {
    if (label >= 0 && label < classes) return;
    throw InvalidInput("labels[" + std::to_string(sentence) + ", " + std::to_string(token) + "] is " +
                       std::to_string(label) + ": expected a class from 0 to " + std::to_string(classes - 1) +
                       ", or ignore_index (" + std::to_string(ignore_index) + ")");
}

// Writes softmax(logits) - one_hot(label) and returns the cross-entropy, both from one set of exponentials.
template <typename Real>
double token_loss(const Real* logits, std::int64_t classes, std::int64_t label, double* exponentials, Real* gradient) {
    const double largest = *std::max_element(logits, logits + classes);
    double sum = 0.0;
    for (std::int64_t c = 0; c < classes; ++c) sum += exponentials[c] = std::exp(logits[c] - largest);
    for (std::int64_t c = 0; c < classes; ++c) gradient[c] = static_cast<Real>(exponentials[c] / sum);
    const double loss = std::log(sum) + (largest - logits[label]);
    gradient[label] = static_cast<Real>(std::expm1(-loss));  // p - 1 without cancellation where p is nearly 1
    return loss;
}

}  // namespace

template <typename Real>
void masked_token_loss(const Real* logits, const std::int64_t* labels, std::int64_t sentences, std::int64_t tokens,
                       std::int64_t classes, double lambda_max, std::int64_t ignore_index, int threads, Real* loss,
                       Real* gradient) {
    const std::int64_t each = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, tokens * classes));
    if (sentences * tokens * classes < kWorthThreads) threads = 1;

    const auto one = [&](std::int64_t b, double* exponentials) {
        const std::int64_t* const label = labels + b * tokens;
        Real* const rows = gradient + b * tokens * classes;
        std::int64_t count = 0;
        std::int64_t worst = 0;
        double sum = 0.0;
        double largest = -1.0;
        for (std::int64_t t = 0; t < tokens; ++t) {
            Real* const row = rows + t * classes;
            if (label[t] == ignore_index) {
                std::fill_n(row, classes, Real{0});
                continue;
            }
            check_label(label[t], b, t, classes, ignore_index);
            const double value = token_loss(logits + (b * tokens + t) * classes, classes, label[t], exponentials, row);
            sum += value;
            ++count;
            if (value > largest) {
                largest = value;
                worst = t;
            }
        }
        if (count == 0) {
            loss[b] = Real{0};
            return;
        }
        const double mean = 1.0 / static_cast<double>(count);
        loss[b] = static_cast<Real>(sum * mean + lambda_max * largest);
        for (std::int64_t t = 0; t < tokens; ++t) {
            const auto weight = static_cast<Real>(t == worst ? mean + lambda_max : mean);
            for (std::int64_t c = 0; c < classes; ++c) rows[t * classes + c] *= weight;
        }
    };

    parallel_for((sentences + each - 1) / each, threads, [&](std::int64_t task, int) {
        std::vector<double> exponentials(static_cast<std::size_t>(classes));
        const std::int64_t end = std::min(sentences, (task + 1) * each);
        for (std::int64_t b = task * each; b < end; ++b) one(b, exponentials.data());
    });
}

template void masked_token_loss<float>(const float*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                                       double, std::int64_t, int, float*, float*);
template void masked_token_loss<double>(const double*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                                        double, std::int64_t, int, double*, double*);

}  // namespace pymetaner
