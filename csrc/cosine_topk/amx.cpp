// AMX: tdpbssd multiplies a tile of 16 queries by 64 elements with a tile of 64 elements by 16 rows, bytes into 32-bit
// sums. A panel of the bank is laid out as a row of such tiles, and so are 16 queries. Two tiles of queries meet two
// of the bank: each tile that is loaded is used twice, and four independent sums are in flight.
#include <immintrin.h>

#if defined(__AVX512F__)
#include "cosine_topk/wide_bounds.hpp"
#else  // emulated
#include "cosine_topk/screening.hpp"
#endif

namespace pymetaner {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileBytes = kTileRows * kTileWidth;

// What ldtilecfg reads: the shape of each of the eight tiles.
struct alignas(64) TileShapes {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {};
    std::uint8_t rows[16] = {};
};

// The tiles, set up for a group of queries. 0 and 1: sums of the first 16 queries with either panel; 2 and 3: of the
// others; 4 and 5: queries; 6 and 7: the bank.
class Tiles {
  public:
    explicit Tiles(int queries) {
        const int first = queries < kTileRows ? queries : kTileRows;
        const int others = queries - first;
        const int rows[8] = {first, first, others, others, first, others, kTileRows, kTileRows};
        TileShapes shapes;
        for (int t = 0; t < 8; ++t) {
            shapes.bytes_per_row[t] = rows[t] > 0 ? kTileWidth : 0;
            shapes.rows[t] = static_cast<std::uint8_t>(rows[t]);
        }
        _tile_loadconfig(&shapes);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

struct Amx : Plain<Amx> {
#if defined(__AVX512F__)
    using Bounds = WideBounds;
#endif
    using Code = std::int8_t;
    static constexpr int kGroup = 2 * kTileRows;
    static constexpr int kTogether = kTileRows;
    static constexpr int kAlternate = kTileWidth;
    static constexpr int kPanels = 2;

    using Products = std::int32_t[kPanels][kGroup][kPanelRows];

    static void screen(const QueryGroup& queries, std::int64_t groups, const PanelRun& panels, const Screened& found) {
        alignas(64) Products products;
        const Tiles tiles(queries.count);
        const std::int64_t bytes = groups * kGroupWidth * kPanelRows;  // of a panel
        for (int first = 0; first < panels.count; first += kPanels) {
            const int here = panels.count - first < kPanels ? panels.count - first : kPanels;
            multiply(queries, panels.codes + first * bytes, here, bytes, products);
            for (int p = 0; p < here; ++p) {
                const int panel = first + p;
                found.queries[panel] =
                    make_bounds(Bounds(panels.terms[panel]), products[p], queries, found, panel * kGroup);
            }
        }
    }

    static void multiply(const QueryGroup& queries, const std::int8_t* panels, int count, std::int64_t bytes,
                         Products& out) {
        const auto* const codes = static_cast<const Code*>(queries.codes);
        if (queries.count > kTileRows) {
            if (count == 2) return multiply<2, 2>(codes, panels, bytes, out);
            return multiply<2, 1>(codes, panels, bytes, out);
        }
        if (count == 2) return multiply<1, 2>(codes, panels, bytes, out);
        return multiply<1, 1>(codes, panels, bytes, out);
    }

    // Multiplies one or two tiles of queries with one or two panels, `bytes` each.
    template <int QueryTiles, int Panels>
    static void multiply(const Code* queries, const std::int8_t* panels, std::int64_t bytes, Products& out) {
        _tile_zero(0);
        if (Panels > 1) _tile_zero(1);
        if (QueryTiles > 1) _tile_zero(2);
        if (QueryTiles > 1 && Panels > 1) _tile_zero(3);
        for (std::int64_t i = 0; i < bytes; i += kTileBytes) {
            _tile_loadd(6, panels + i, kTileWidth);
            _tile_loadd(4, queries + i, kTileWidth);
            _tile_dpbssd(0, 4, 6);
            if (Panels > 1) {
                _tile_loadd(7, panels + bytes + i, kTileWidth);
                _tile_dpbssd(1, 4, 7);
            }
            if (QueryTiles > 1) {
                _tile_loadd(5, queries + bytes + i, kTileWidth);
                _tile_dpbssd(2, 5, 6);
                if (Panels > 1) _tile_dpbssd(3, 5, 7);
            }
        }
        constexpr int kLine = kPanelRows * sizeof(std::int32_t);
        _tile_stored(0, out[0], kLine);
        if (Panels > 1) _tile_stored(1, out[1], kLine);
        if (QueryTiles > 1) _tile_stored(2, out[0][kTileRows], kLine);
        if (QueryTiles > 1 && Panels > 1) _tile_stored(3, out[1][kTileRows], kLine);
    }
};

}  // namespace

Kernels amx_kernels() {
    return table_of<Amx>();
}

}  // namespace pymetaner
