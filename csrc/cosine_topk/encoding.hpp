// Norms and 8-bit copies of rows, part by part and from several threads.
#pragma once

#include <atomic>
#include <cstdint>

#include "cosine_topk/cosine_topk.hpp"
#include "cosine_topk/kernels.hpp"

namespace pymetaner {

constexpr std::int64_t kWorthThreads = 250000;  // elements below which starting a thread costs more than it saves

class Encoder {
  public:
    Encoder(const Kernels& kernels, const Rows& rows, const Codes& codes);

    // Fills what belongs to rows [first, last); `first` begins a panel. Threads may do different rows at once. Rows
    // that are not finite are taken for zeros until `check`.
    void encode(std::int64_t first, std::int64_t last);

    // Throws InvalidInput, naming the first row that was not finite, if there was one.
    void check(const char* name) const;

  private:
    const Kernels kernels_;
    const Rows rows_;
    const Codes codes_;
    std::atomic<std::int64_t> first_bad_;
};

}  // namespace pymetaner
