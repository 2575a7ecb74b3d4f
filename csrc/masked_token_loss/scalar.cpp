// For every processor of the architecture: plain loops, with what vectors the compiler may use everywhere (SSE2 on
// x86-64).
#include "masked_token_loss/sentence.hpp"

namespace pymetaner {
namespace {

struct Scalar {
    static constexpr bool kSixteen = false;
};

}  // namespace

LossKernels scalar_loss() {
    return loss_of<Scalar>();
}

}  // namespace pymetaner
