// Brute force, blocked so that both operands stay in the caches.
//
// A panel of queries is widened to float64 once; each thread then takes blocks of the bank, widens a block into its own
// buffer and multiplies it with the whole panel. With many panels the threads share them out and each sees the whole
// bank; with few, they share out the bank and their selections are merged. Memory: one panel and one block a thread.
#include "cosine_topk/cosine_topk.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/parallel.hpp"
#include "cosine_topk/dot.hpp"
#include "cosine_topk/selection.hpp"

namespace pymetaner {
namespace {

constexpr std::int64_t kPanel = 64;       // queries
constexpr std::int64_t kBlock = 16;       // bank rows: 96 KiB of doubles at 768 dimensions
constexpr std::int64_t kSlice = 256;      // bank rows that a thread takes at a time
constexpr double kWorthThreads = 500000;  // multiplications below which starting a thread costs more than it saves

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

// The norm of each row. Squares of floats neither overflow nor vanish in float64, so a norm is finite exactly if every
// element of its row is, and zero exactly if they all are.
std::vector<double> norms_of(const Rows& rows, const char* name, int threads) {
    std::vector<double> norms(static_cast<std::size_t>(rows.count));
    parallel_for(ceil_div(rows.count, kSlice), threads, [&](std::int64_t slice, int) {
        std::vector<double> wide(static_cast<std::size_t>(padded(rows.dim)));
        const std::int64_t end = std::min(rows.count, (slice + 1) * kSlice);
        for (std::int64_t i = slice * kSlice; i < end; ++i) {
            widen(rows.row(i), rows.dim, wide.data());
            norms[static_cast<std::size_t>(i)] = std::sqrt(dots<1>(wide.data(), wide.data(), padded(rows.dim))[0]);
        }
    });
    const auto bad = std::find_if(norms.begin(), norms.end(), [](double norm) { return !std::isfinite(norm); });
    if (bad != norms.end()) {
        throw InvalidInput(std::string(name) + " row " + std::to_string(bad - norms.begin()) +
                           " holds NaN or an infinity: give finite vectors");
    }
    return norms;
}

class Search {
  public:
    Search(const Rows& queries, const Rows& bank, const std::int64_t* exclude, std::int64_t k, int threads)
        : queries_(queries),
          bank_(bank),
          exclude_(exclude),
          k_(static_cast<std::size_t>(std::min(k, bank.count))),
          length_(padded(bank.dim)),
          query_norms_(norms_of(queries, "queries", threads)),
          bank_norms_(norms_of(bank, "bank", threads)) {}

    std::int64_t panels() const { return ceil_div(queries_.count, kPanel); }
    std::int64_t panel_size(std::int64_t panel) const { return std::min(kPanel, queries_.count - panel * kPanel); }

    std::vector<Selection> selections(std::int64_t panel) const {
        return std::vector<Selection>(static_cast<std::size_t>(panel_size(panel)), Selection(k_));
    }

    std::vector<double> widened(std::int64_t panel) const {
        std::vector<double> wide(static_cast<std::size_t>(panel_size(panel) * length_));
        for (std::int64_t q = 0; q < panel_size(panel); ++q) {
            widen(queries_.row(panel * kPanel + q), queries_.dim, wide.data() + q * length_);
        }
        return wide;
    }

    // Offers bank rows [begin, end) to the selections of a panel, whose widened queries are `wide`.
    void sweep(std::int64_t panel, const std::vector<double>& wide, std::int64_t begin, std::int64_t end,
               std::vector<Selection>& selections) const {
        std::vector<double> block(static_cast<std::size_t>(kBlock * length_));
        const std::int64_t size = panel_size(panel);
        for (std::int64_t first = begin; first < end; first += kBlock) {
            const std::int64_t count = std::min(kBlock, end - first);
            for (std::int64_t b = 0; b < count; ++b) {
                widen(bank_.row(first + b), bank_.dim, block.data() + b * length_);
            }
            std::int64_t q = 0;
            for (; q + 4 <= size; q += 4) multiply<4>(panel, q, wide, block, first, count, selections);
            for (; q < size; ++q) multiply<1>(panel, q, wide, block, first, count, selections);
        }
    }

  private:
    template <int Queries>
    void multiply(std::int64_t panel, std::int64_t q, const std::vector<double>& wide, const std::vector<double>& block,
                  std::int64_t first, std::int64_t count, std::vector<Selection>& selections) const {
        for (std::int64_t b = 0; b < count; ++b) {
            const std::int64_t index = first + b;
            const auto products = dots<Queries>(wide.data() + q * length_, block.data() + b * length_, length_);
            for (int i = 0; i < Queries; ++i) {
                const std::int64_t query = panel * kPanel + q + i;
                if (exclude_ != nullptr && exclude_[query] == index) continue;
                const double norm =
                    query_norms_[static_cast<std::size_t>(query)] * bank_norms_[static_cast<std::size_t>(index)];
                const double score = norm > 0.0 ? products[static_cast<std::size_t>(i)] / norm : 0.0;
                selections[static_cast<std::size_t>(q + i)].offer({score, index});
            }
        }
    }

    const Rows queries_;
    const Rows bank_;
    const std::int64_t* const exclude_;
    const std::size_t k_;
    const std::int64_t length_;
    const std::vector<double> query_norms_;
    const std::vector<double> bank_norms_;
};

}  // namespace

void cosine_topk(const Rows& queries, const Rows& bank, const std::int64_t* exclude, std::int64_t k, int threads,
                 float* scores, std::int64_t* indices) {
    const double work =
        static_cast<double>(queries.count) * static_cast<double>(bank.count) * static_cast<double>(bank.dim);
    if (work < kWorthThreads) threads = 1;
    const Search search(queries, bank, exclude, k, threads);
    std::fill_n(scores, queries.count * k, -std::numeric_limits<float>::infinity());
    std::fill_n(indices, queries.count * k, std::int64_t{-1});

    const auto write = [&](std::int64_t panel, std::vector<Selection>& selections) {
        std::int64_t row = panel * kPanel * k;
        for (Selection& selection : selections) {
            std::int64_t place = row;
            for (const Candidate& candidate : selection.take()) {
                scores[place] = static_cast<float>(candidate.score);
                indices[place] = candidate.index;
                ++place;
            }
            row += k;
        }
    };

    if (search.panels() >= threads) {
        parallel_for(search.panels(), threads, [&](std::int64_t panel, int) {
            std::vector<Selection> selections = search.selections(panel);
            search.sweep(panel, search.widened(panel), 0, bank.count, selections);
            write(panel, selections);
        });
        return;
    }
    for (std::int64_t panel = 0; panel < search.panels(); ++panel) {
        const std::vector<double> wide = search.widened(panel);
        std::vector<std::vector<Selection>> found(static_cast<std::size_t>(threads), search.selections(panel));
        parallel_for(ceil_div(bank.count, kSlice), threads, [&](std::int64_t slice, int worker) {
            search.sweep(panel, wide, slice * kSlice, std::min(bank.count, (slice + 1) * kSlice),
                         found[static_cast<std::size_t>(worker)]);
        });
        for (std::size_t worker = 1; worker < found.size(); ++worker) {
            for (std::size_t q = 0; q < found[0].size(); ++q) found[0][q].merge(found[worker][q]);
        }
        write(panel, found[0]);
    }
}

}  // namespace pymetaner
