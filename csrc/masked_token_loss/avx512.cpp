// AVX-512, for its machines and those with AMX: eight lanes of float64 in a register, or the exponentials of sixteen of
// float32.
#include "masked_token_loss/sentence.hpp"

namespace pymetaner {
namespace {

struct Avx512 {
    static constexpr bool kSixteen = true;
};

}  // namespace

LossKernels avx512_loss() {
    return loss_of<Avx512>();
}

}  // namespace pymetaner
