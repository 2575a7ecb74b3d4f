// Screening of many queries on Hopper, whose tensor cores read both factors from shared memory and run while the warps
// go on: two groups of four warps compute 64 x 256 products each. Other devices take cuda_screen.cu.
//
// Four stages: one is multiplied, the one before may still be, and two are being filled.
#include <algorithm>

#include "cosine_topk/cuda_tiles.hpp"

namespace pymetaner {
namespace {

struct Tile {
    static constexpr int kQueries = 128;
    static constexpr int kRows = 256;
    static constexpr int kThreads = 256;
    static constexpr int kStages = 4;
    static constexpr int kStageBytes = (kQueries + kRows) * kLine;
    static constexpr int kAlignment = 1024;  // of a swizzle's eight rows
    static constexpr int kBytes = kStages * kStageBytes + kAlignment;
};

// Only code for sm_90a has the instructions; any other is never launched.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Rows of 128 bytes, swizzled, eight of them 1,024 bytes behind the eight before.
__device__ std::uint64_t descriptor(unsigned address) {
    constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
    return kSwizzle128 | std::uint64_t{1024 / 16} << 32 | std::uint64_t{1} << 16 | (address & 0x3FFFFU) >> 4;
}

// d (64 x 256), of four warps, = left (64 x 16) right (16 x 256), or that added to it.
__device__ void multiply_async(float (&d)[128], std::uint64_t left, std::uint64_t right, bool add) {
    asm volatile(
        "{\n.reg .pred add;\n"
        "setp.ne.b32 add, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, add, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),
          "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
          "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
          "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
          "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]),
          "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), "+f"(d[72]),
          "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]),
          "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]),
          "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]),
          "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]),
          "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]),
          "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]),
          "+f"(d[126]), "+f"(d[127])
        : "l"(left), "l"(right), "r"(static_cast<int>(add)));
}

// Products that are being computed may not be moved to other registers.
__device__ void hold(float (&d)[128]) {
#pragma unroll
    for (float& x : d) asm volatile("" : "+f"(x)::"memory");
}

template <int Left>
__device__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}

// A lane has, of two queries, 2 products in every 8 rows: those of four groups of 16, or of 16 groups of 4.
template <int Group>
__device__ void write_maxima(const Cursor<Tile>& at, const float (&d)[128]) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const std::int64_t groups = at.task.padded_bank / Group;
    const std::int64_t query = at.first_query() + 16 * warp + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (query + 8 * half >= at.task.count) continue;
        float* const out = at.task.maxima + (query + 8 * half) * groups + at.first_row() / Group + lane % 4;
#pragma unroll
        for (int first = 0; first < 32; first += Group / 2) {
            float largest = d[4 * first + 2 * half];
#pragma unroll
            for (int j = first; j < first + Group / 2; ++j) {
                largest = fmaxf(largest, fmaxf(d[4 * j + 2 * half], d[4 * j + 2 * half + 1]));
            }
            out[first / (Group / 2) * 4] = largest;
        }
    }
}

template <int Group>
__device__ void screen_tiles(const Screening& task) {
    extern __shared__ __align__(16) unsigned char shared[];
    const auto given = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const unsigned stages = (given + Tile::kAlignment - 1) / Tile::kAlignment * Tile::kAlignment;
    Cursor<Tile> loads(task), at(task);
    unsigned to = 0, from = 0;
    const auto load = [&] {
        if (loads.tile < loads.tiles) load_stage(loads, stages + to * Tile::kStageBytes);
        end_of_copies();  // also where nothing is left to copy: what is waited for is counted
        loads.next();
        to = (to + 1) % Tile::kStages;
    };
    for (int i = 0; i < Tile::kStages - 2; ++i) load();
    float d[128];
    while (at.tile < at.tiles) {
        hold(d);
        for (int step = 0; step < at.steps; ++step) {
            wait_for_copies<Tile::kStages - 3>();
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // for tensor cores to see what was copied
            __syncthreads();  // the stage is there for all; nobody multiplies the last but one, which is filled next
            const unsigned stage = stages + from * Tile::kStageBytes;
            const std::uint64_t left = descriptor(stage + threadIdx.x / 128 * 64 * kLine);
            const std::uint64_t right = descriptor(stage + Tile::kQueries * kLine);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (unsigned part = 0; part < 4; ++part) {  // 16 columns are 32 bytes of a row, 2 in a descriptor
                multiply_async(d, left + 2 * part, right + 2 * part, step > 0 || part > 0);
            }
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            load();
            wait_for_products<1>();
            from = (from + 1) % Tile::kStages;
        }
        wait_for_products<0>();
        hold(d);
        write_maxima<Group>(at, d);
        at.step = at.steps - 1;
        at.next();
    }
    wait_for_copies<0>();
}

#endif

template <int Group>
__global__ void __launch_bounds__(Tile::kThreads, 1) wgmma_kernel(const __grid_constant__ Screening task) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    screen_tiles<Group>(task);
#else
    __trap();
#endif
}

template <int Group>
void launch(unsigned blocks, const Screening& task, cudaStream_t stream) {
    allow_shared<wgmma_kernel<Group>>(Tile::kBytes);
    wgmma_kernel<Group><<<blocks, Tile::kThreads, Tile::kBytes, stream>>>(task);
}

}  // namespace

bool screen_with_wgmma(const Screening& task, cudaStream_t stream) {
    const int major = device_attribute(cudaDevAttrComputeCapabilityMajor);
    if (major != 9 || device_attribute(cudaDevAttrComputeCapabilityMinor) != 0) return false;
    const std::int64_t tiles = (task.count + Tile::kQueries - 1) / Tile::kQueries * (task.padded_bank / Tile::kRows);
    const std::int64_t processors = device_attribute(cudaDevAttrMultiProcessorCount);
    const auto blocks = static_cast<unsigned>(std::min(tiles, processors));
    (task.group == 4 ? launch<4> : launch<16>)(blocks, task, stream);
    check_launched("screening");
    return true;
}

}  // namespace pymetaner
