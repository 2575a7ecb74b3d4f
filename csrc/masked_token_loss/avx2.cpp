// AVX2: eight lanes of float32 in a register, or two registers of float64.
#include "masked_token_loss/sentence.hpp"

namespace pymetaner {
namespace {

struct Avx2 {
    static constexpr bool kSixteen = false;
};

}  // namespace

LossKernels avx2_loss() {
    return loss_of<Avx2>();
}

}  // namespace pymetaner
