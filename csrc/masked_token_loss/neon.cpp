// NEON, which every 64-bit ARM has: eight lanes in two registers, or four.
#include "masked_token_loss/sentence.hpp"

namespace pymetaner {
namespace {

struct Neon {
    static constexpr bool kSixteen = false;
};

}  // namespace

LossKernels neon_loss() {
    return loss_of<Neon>();
}

}  // namespace pymetaner
