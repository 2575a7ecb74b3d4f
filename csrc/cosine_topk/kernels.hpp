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
constexpr double kRowLevels = 127.0;
constexpr std::int64_t kMaxScreenedDim = 65536;  // beyond, sums of 8-bit products might not fit into 32 bits
constexpr float kRounding = 1.2e-5F;             // see screening.hpp

// What the screening bound needs of a query beside its codes (see screening.hpp).
struct Terms {
    float scale;
    float residual;
    float length;
    float offset;
};

// Up to Kernels::group encoded queries.
struct QueryGroup {
    int count;
    const void* codes;
    const Terms* terms;
    const float* limits;  // what a bound must reach to be of interest
};

struct Kernels {
    int group;              // queries that `screen` takes at most
    int together;           // queries whose codes alternate, four of each; 1: their codes come one after another
    std::size_t code_size;  // bytes of a query's code

    // sums[r] = the float64 dot product, in one fixed order, of a query with `count` <= kExactRows rows.
    void (*dots)(const float* query, const float* const* rows, int count, std::int64_t dim, double* sums);

    // Makes the 8-bit copy of 16 rows. `center` has `padded` floats, `line` room for `padded` doubles, here and below.
    void (*encode_panel)(const float* rows, std::int64_t stride, std::int64_t dim, std::int64_t padded,
                         const double* norms, const float* center, double* line, std::int8_t* panel, PanelTerms* terms);

    // Writes the codes of a query, four and again four, 4 * together codes from one four to the next, and its terms.
    void (*encode_query)(const float* row, std::int64_t dim, std::int64_t padded, double norm, const float* center,
                         double* line, void* codes, Terms* terms);

    // bounds[16 q + r] >= the cosine of query q and row r of the panel. Returns the queries of which one of the 16
    // reaches the limit: bit q for query q.
    std::uint64_t (*screen)(const QueryGroup& queries, std::int64_t groups, const std::int8_t* panel,
                            const PanelTerms& terms, float* bounds);
};

Kernels scalar_kernels();
Kernels avx2_kernels();
Kernels avx512_kernels();
Kernels amx_kernels();
Kernels neon_kernels();

// The table of an instruction set that this build has.
Kernels kernels_of(InstructionSet set);

}  // namespace pymetaner
