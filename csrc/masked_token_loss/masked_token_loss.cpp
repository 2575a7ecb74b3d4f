// Sentences are shared out between threads; each is computed at once, so that what one step writes is still in the
// cache for the next.
#include "masked_token_loss/masked_token_loss.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/instruction_set.hpp"
#include "common/parallel.hpp"
#include "masked_token_loss/kernels.hpp"

namespace pymetaner {
namespace {

constexpr std::int64_t kWorthThreads = 60000;  // logits below which starting a thread costs more than it saves
constexpr std::int64_t kChunk = 4096;          // logits, about, that a thread takes at a time

LossKernels kernels() {
    switch (instruction_set()) {
#if defined(PYMETANER_AVX2)
        case InstructionSet::avx2:
            return avx2_loss();
#endif
#if defined(PYMETANER_AVX512)
#if !defined(PYMETANER_EMULATED_AMX)  // a processor with AMX has AVX-512 too, but not one that emulates it
        case InstructionSet::amx:
#endif
        case InstructionSet::avx512:
            return avx512_loss();
#endif
#if defined(PYMETANER_NEON)
        case InstructionSet::neon:
            return neon_loss();
#endif
        default:
            return scalar_loss();
    }
}

double run(const LossKernels& kernels, const Sentence<float>& sentence) {
    return kernels.float32(sentence);
}
double run(const LossKernels& kernels, const Sentence<double>& sentence) {
    return kernels.float64(sentence);
}
double run(const LossKernels& kernels, const Sentence<BFloat16>& sentence) {
    return kernels.bfloat16(sentence);
}
double run(const LossKernels& kernels, const Sentence<Float16>& sentence) {
    return kernels.float16(sentence);
}

[[noreturn]] void refuse_label(std::int64_t label, std::int64_t sentence, std::int64_t token, std::int64_t classes,
                               std::int64_t ignore_index) {
    throw InvalidInput("labels[" + std::to_string(sentence) + ", " + std::to_string(token) + "] is " +
                       std::to_string(label) + ": expected a class from 0 to " + std::to_string(classes - 1) +
                       ", or ignore_index (" + std::to_string(ignore_index) + ")");
}

}  // namespace

template <typename Logit>
void masked_token_loss(const Logit* logits, const std::int64_t* labels, std::int64_t sentences, std::int64_t tokens,
                       std::int64_t classes, double lambda_max, std::int64_t ignore_index, int threads,
                       ResultOf<Logit>* loss, ResultOf<Logit>* gradient) {
    const LossKernels chosen = kernels();
    const std::int64_t size = tokens * classes;
    const std::int64_t each = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, size));
    if (sentences * size < kWorthThreads) threads = 1;

    parallel_for((sentences + each - 1) / each, threads, [&](std::int64_t task, int) {
        std::vector<std::int64_t> places(static_cast<std::size_t>(tokens));
        std::vector<ResultOf<Logit>> block(static_cast<std::size_t>(kTokens * (classes + kLanes)));
        for (std::int64_t b = task * each; b < std::min(sentences, (task + 1) * each); ++b) {
            const std::int64_t* const own = labels + b * tokens;
            ResultOf<Logit>* const slope = gradient + b * size;
            std::fill_n(slope, size, ResultOf<Logit>{0});
            std::int64_t count = 0;
            for (std::int64_t t = 0; t < tokens; ++t) {  // no branch on what is counted: nobody could predict it
                const bool counted = own[t] != ignore_index;
                if (counted & ((own[t] < 0) | (own[t] >= classes))) refuse_label(own[t], b, t, classes, ignore_index);
                places[static_cast<std::size_t>(count)] = t;
                count += counted ? 1 : 0;
            }
            const Sentence<Logit> sentence{logits + b * size, own,        places.data(), count,
                                           classes,           lambda_max, block.data(),  slope};
            loss[b] = count == 0 ? ResultOf<Logit>{0} : static_cast<ResultOf<Logit>>(run(chosen, sentence));
        }
    });
}

template void masked_token_loss<float>(const float*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                                       double, std::int64_t, int, float*, float*);
template void masked_token_loss<double>(const double*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                                        double, std::int64_t, int, double*, double*);
template void masked_token_loss<BFloat16>(const BFloat16*, const std::int64_t*, std::int64_t, std::int64_t,
                                          std::int64_t, double, std::int64_t, int, float*, float*);
template void masked_token_loss<Float16>(const Float16*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                                         double, std::int64_t, int, float*, float*);

}  // namespace pymetaner
