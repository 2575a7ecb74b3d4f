#include "cosine_topk/kernels.hpp"

namespace pymetaner {

Kernels kernels_of(InstructionSet set) {
    switch (set) {
#if defined(PYMETANER_AVX2)
        case InstructionSet::avx2:
            return avx2_kernels();
#endif
#if defined(PYMETANER_AVX512)
        case InstructionSet::avx512:
            return avx512_kernels();
#endif
#if defined(PYMETANER_AMX)
        case InstructionSet::amx:
            return amx_kernels();
#endif
#if defined(PYMETANER_NEON)
        case InstructionSet::neon:
            return neon_kernels();
#endif
        default:
            return scalar_kernels();
    }
}

}  // namespace pymetaner
