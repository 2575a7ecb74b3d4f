// The tiles of AMX in plain C++, put before csrc/cosine_topk/amx.cpp where no processor has them
// (cmake -D PYMETANER_EMULATED_AMX=ON). Written from the pseudocode of Intel's Software Developer's Manual, volume 2:
// LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBSSD, TILERELEASE. What the processor answers with an exception ends
// the program, and memory is read and written as the processor would, so that AddressSanitizer sees it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated_amx {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Tile {
    int rows = 0;
    int row_bytes = 0;
    std::uint8_t data[kRows][kRowBytes] = {};
};

inline thread_local Tile tiles[kTiles];

inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "AMX would fault: %s\n", what);
    std::abort();
}

inline Tile& configured(int index) {
    require(index >= 0 && index < kTiles, "no such tile");
    require(tiles[index].rows > 0 && tiles[index].row_bytes > 0, "a tile that is not configured");
    return tiles[index];
}

inline void load_config(const void* memory) {
    std::uint8_t config[64];
    std::memcpy(config, memory, sizeof config);
    require(config[0] == 1, "palette 1 is the one there is");
    for (int i = 2; i < 16; ++i) require(config[i] == 0, "reserved bytes of the configuration are 0");
    for (int i = 0; i < 16; ++i) {
        std::uint16_t row_bytes = 0;
        std::memcpy(&row_bytes, config + 16 + 2 * i, sizeof row_bytes);
        const int rows = config[48 + i];
        require(i < kTiles || (rows == 0 && row_bytes == 0), "there are 8 tiles");
        require(rows <= kRows && row_bytes <= kRowBytes, "a tile is 16 rows of 64 bytes at most");
        require((rows == 0) == (row_bytes == 0), "a tile has rows and bytes, or neither");
        if (i >= kTiles) continue;
        tiles[i] = Tile();
        tiles[i].rows = rows;
        tiles[i].row_bytes = row_bytes;
    }
}

inline void zero(int index) {
    std::memset(configured(index).data, 0, sizeof(Tile::data));
}

inline void load(int index, const void* base, std::int64_t stride) {
    Tile& tile = configured(index);
    std::memset(tile.data, 0, sizeof tile.data);
    for (int row = 0; row < tile.rows; ++row) {
        std::memcpy(tile.data[row], static_cast<const std::uint8_t*>(base) + row * stride,
                    static_cast<std::size_t>(tile.row_bytes));
    }
}

inline void store(int index, void* base, std::int64_t stride) {
    const Tile& tile = configured(index);
    for (int row = 0; row < tile.rows; ++row) {
        std::memcpy(static_cast<std::uint8_t*>(base) + row * stride, tile.data[row],
                    static_cast<std::size_t>(tile.row_bytes));
    }
}

// sums[m][n] += the four products of signed bytes of left[m][k] and right[k][n], for every k.
inline void multiply(int sums, int left, int right) {
    Tile& c = configured(sums);
    const Tile& a = configured(left);
    const Tile& b = configured(right);
    require(sums != left && sums != right && left != right, "the three tiles are different ones");
    require(a.rows == c.rows && b.row_bytes == c.row_bytes && a.row_bytes == 4 * b.rows, "the shapes fit");
    require(c.row_bytes % 4 == 0, "sums are 32 bits wide");
    for (int m = 0; m < c.rows; ++m) {
        for (int n = 0; n < c.row_bytes / 4; ++n) {
            std::uint32_t bits = 0;
            std::memcpy(&bits, c.data[m] + 4 * n, sizeof bits);
            for (int k = 0; k < b.rows; ++k) {
                for (int i = 4 * k; i < 4 * k + 4; ++i) {
                    const int x = static_cast<std::int8_t>(a.data[m][i]);
                    const int y = static_cast<std::int8_t>(b.data[k][4 * n + i % 4]);
                    bits += static_cast<std::uint32_t>(x * y);
                }
            }
            std::memcpy(c.data[m] + 4 * n, &bits, sizeof bits);
        }
    }
    for (int m = c.rows; m < kRows; ++m) std::memset(c.data[m], 0, kRowBytes);
}

inline void release() {
    for (Tile& tile : tiles) tile = Tile();
}

}  // namespace emulated_amx

#undef _tile_loadconfig
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_release
#define _tile_loadconfig(memory) emulated_amx::load_config(memory)
#define _tile_zero(tile) emulated_amx::zero(tile)
#define _tile_loadd(tile, base, stride) emulated_amx::load(tile, base, stride)
#define _tile_stored(tile, base, stride) emulated_amx::store(tile, base, stride)
#define _tile_dpbssd(sums, left, right) emulated_amx::multiply(sums, left, right)
#define _tile_release() emulated_amx::release()
