// AMX: tdpbssd multiplies a tile of 16 queries by 64 elements with a tile of 64 elements by 16 rows, bytes into 32-bit
// sums. A panel of the bank is laid out as a row of such tiles, and up to three tiles of queries share each of them, so
// that three independent sums are in flight.
#include <immintrin.h>

#include "cosine_topk/screening.hpp"

namespace pymetaner {
namespace {

constexpr int kTileRows = 16;

// What ldtilecfg reads: the shape of each of the eight tiles.
struct alignas(64) TileShapes {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {};
    std::uint8_t rows[16] = {};
};

struct Amx : PlainQueries {
    using Code = std::int8_t;
    static constexpr int kGroup = 3 * kTileRows;

    static void products(const Code* queries, int count, std::int64_t groups, const std::int8_t* panel,
                         std::int32_t* out) {
        const int tiles = (count + kTileRows - 1) / kTileRows;
        TileShapes shapes;  // 0 to 2: sums; 3: the bank; 4 to 6: queries, of which the last tile may have fewer rows
        for (int t = 0; t < 7; ++t) {
            const int left = count - (t < 3 ? t : t - 4) * kTileRows;
            const int rows = t == 3 || left >= kTileRows ? kTileRows : left;
            shapes.bytes_per_row[t] = rows > 0 ? kTileWidth : 0;
            shapes.rows[t] = static_cast<std::uint8_t>(rows > 0 ? rows : 0);
        }
        _tile_loadconfig(&shapes);
        if (tiles == 3) return products_of<3>(queries, groups, panel, out);
        if (tiles == 2) return products_of<2>(queries, groups, panel, out);
        return products_of<1>(queries, groups, panel, out);
    }

    template <int Tiles>
    static void products_of(const Code* queries, std::int64_t groups, const std::int8_t* panel, std::int32_t* out) {
        const std::int64_t width = groups * kGroupWidth;  // bytes from one query to the next
        const auto* const second = queries + kTileRows * width;
        const auto* const third = second + kTileRows * width;
        _tile_zero(0);
        if (Tiles > 1) _tile_zero(1);
        if (Tiles > 2) _tile_zero(2);
        for (std::int64_t i = 0; i < width; i += kTileWidth) {
            _tile_loadd(3, panel + i * kPanelRows, kTileWidth);
            _tile_loadd(4, queries + i, width);
            _tile_dpbssd(0, 4, 3);
            if (Tiles > 1) {
                _tile_loadd(5, second + i, width);
                _tile_dpbssd(1, 5, 3);
            }
            if (Tiles > 2) {
                _tile_loadd(6, third + i, width);
                _tile_dpbssd(2, 6, 3);
            }
        }
        constexpr int kLine = kPanelRows * sizeof(std::int32_t);
        _tile_stored(0, out, kLine);
        if (Tiles > 1) _tile_stored(1, out + kTileRows * kPanelRows, kLine);
        if (Tiles > 2) _tile_stored(2, out + 2 * kTileRows * kPanelRows, kLine);
        _tile_release();
    }
};

}  // namespace

Kernels amx_kernels() {
    return table_of<Amx>();
}

}  // namespace pymetaner
