// What the search needs of an instruction set: a table of functions, one table from each instruction set's file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/instruction_set.hpp"
#include "cosine_topk/cosine_topk.hpp"

namespace pymetaner {

constexpr int kGroupWidth = 4;  // elements of a row that stand together in a panel
constexpr int kTileWidth = 64;  // what rows are padded to
constexpr int kExactRows = 4;   // rows scored exactly at a time: enough additions in flight to hide their latency
constexpr int kRunPanels = 16;  // panels that are screened in one call
constexpr double kRowLevels = 127.0;
constexpr std::int64_t kMaxScreenedDim = 65536;  // beyond, sums of 8-bit products might not fit into 32 bits
constexpr float kRounding = 1.2e-5F;             // see screening.hpp

// What the screening bound needs of a query beside its codes (see screening.hpp).
struct QueryTerms {
    float scale;
    float residual;
    float stretch;  // residual + length
    float slack;    // offset + what rounding may add
};

// What the cosine of a pair is at least whose bound is `bound` (see screening.hpp), `row` being a row of the panel.
inline float floor_of(float bound, const QueryTerms& query, const PanelTerms& terms, int row) {
    return bound -
           (2.0F * (query.stretch * terms.residuals[row] + query.residual * terms.lengths[row]) + 3 * kRounding);
}

// Up to Kernels::group encoded queries.
struct QueryGroup {
    int count;
    const void* codes;
    const QueryTerms* terms;
    const float* limits;  // what a bound must reach to be of interest
};

// Up to kRunPanels panels, one after another.
struct PanelRun {
    int count;
    const std::int8_t* codes;
    const PanelTerms* terms;
};

// What `screen` writes of query q and panel p, at place p * Kernels::group + q; there is room for kRunPanels panels.
struct Screened {
    float (*bounds)[kPanelRows];  // of each row of the panel: its cosine is no larger
    std::uint16_t* rows;          // whose bounds reach the limit of the query, bit r for row r
    std::uint64_t* queries;       // at place p: of which there are such rows, bit q for query q
};

struct Kernels {
    int group;              // queries that `screen` takes at most
    int together;           // queries whose codes alternate; 1: their codes come one after another
    int alternate;          // how many codes of each alternate: 4 or 64
    std::size_t code_size;  // bytes of a query's code

    // sums[r] = the float64 dot product, in one fixed order, of a query with `count` <= kExactRows rows.
    void (*dots)(const float* query, const float* const* rows, int count, std::int64_t dim, double* sums);

    // Makes the 8-bit copy of 16 rows. `center` has `padded` floats, `line` room for `padded` doubles, here and below.
    void (*encode_panel)(const float* rows, std::int64_t stride, std::int64_t dim, std::int64_t padded,
                         const double* norms, const float* center, double* line, std::int8_t* panel, PanelTerms* terms);

    // Writes the codes of a query, `alternate` of them and `together` * `alternate` codes on the next, and its terms.
    void (*encode_query)(const float* row, std::int64_t dim, std::int64_t padded, double norm, const float* center,
                         double* line, void* codes, QueryTerms* terms);

    // Screens each query with each panel.
    void (*screen)(const QueryGroup& queries, std::int64_t groups, const PanelRun& panels, const Screened& found);
};

Kernels scalar_kernels();
Kernels avx2_kernels();
Kernels avx512_kernels();
Kernels amx_kernels();
Kernels neon_kernels();

// The table of an instruction set that this build has.
Kernels kernels_of(InstructionSet set);

}  // namespace pymetaner
