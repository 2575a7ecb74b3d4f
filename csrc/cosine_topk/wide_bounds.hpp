// Bounds where registers have 512 bits: the sixteen rows of a panel are one. Included by the files of such sets.
#pragma once

#include <immintrin.h>

#include "cosine_topk/screening.hpp"

namespace pymetaner {
namespace {

class WideBounds {
  public:
    explicit WideBounds(const PanelTerms& terms)
        : scales_(_mm512_loadu_ps(terms.scales)),
          residuals_(_mm512_loadu_ps(terms.residuals)),
          lengths_(_mm512_loadu_ps(terms.lengths)),
          offsets_(_mm512_loadu_ps(terms.offsets)) {}

    // Fused operations round once where the proof of the bound allows for twice.
    std::uint16_t reaching(const std::int32_t* products, const QueryTerms& query, float limit, float* out) const {
        constexpr __mmask16 kAll = 0xFFFF;  // GCC 12 warns of the plain conversion, which leaves a register undefined
        __m512 rest = _mm512_add_ps(offsets_, _mm512_set1_ps(query.slack));
        rest = _mm512_fmadd_ps(lengths_, _mm512_set1_ps(query.residual), rest);
        rest = _mm512_fmadd_ps(residuals_, _mm512_set1_ps(query.stretch), rest);
        const __m512 scales = _mm512_mul_ps(scales_, _mm512_set1_ps(query.scale));
        const __m512 sums = _mm512_maskz_cvtepi32_ps(kAll, _mm512_loadu_si512(products));
        const __m512 bounds = _mm512_fmadd_ps(sums, scales, rest);
        _mm512_storeu_ps(out, bounds);
        return _cvtmask16_u32(_mm512_cmp_ps_mask(bounds, _mm512_set1_ps(limit), _CMP_GE_OQ));
    }

  private:
    const __m512 scales_, residuals_, lengths_, offsets_;
};

}  // namespace
}  // namespace pymetaner
