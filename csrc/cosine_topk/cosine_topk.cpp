// The search: slices of the bank go through the caches once for all queries; each slice is screened against groups of
// queries, and what its bounds do not rule out waits in a short list of the query. Bounds hold from below too, and the
// k-th largest of those rules out nearly everything from then on. At the end what waits is scored exactly, highest
// bound first, until the next bound is below the k-th best score. A list that is full, as where vectors are nearly
// equal, is scored so at once. So the Q x N scores never exist, and nearly none is computed exactly.
//
// Threads take slices of the bank and tell each other how high the k-th best score has risen; where there are fewer
// slices than would keep them busy, they take queries instead. Neither changes the answer, which the total order of
// the exact scores fixes. Memory: for each thread and query of a block k candidates and a short list.
#include "cosine_topk/cosine_topk.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "common/parallel.hpp"
#include "cosine_topk/encoding.hpp"
#include "cosine_topk/selection.hpp"

namespace pymetaner {
namespace {

constexpr std::int64_t kBlock = 1024;  // queries whose candidates are kept at a time; a multiple of Kernels::together
constexpr std::int64_t kSliceBytes = 1 << 17;  // of the 8-bit copy: a quarter of the second cache
constexpr std::int64_t kFewQueries = 6;        // for fewer, encoding a bank costs more than scoring it exactly
constexpr float kLowest = -std::numeric_limits<float>::infinity();

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

int lowest_bit(std::uint64_t bits) {
#if defined(__GNUC__)
    return __builtin_ctzll(bits);
#else
    int place = 0;
    while ((bits >> place & 1) == 0) ++place;
    return place;
#endif
}

// The queries, encoded.
struct Queries {
    // Without a centre they get no codes, for where nothing is screened.
    Queries(const Kernels& kernels, const Rows& given, const float* center, int threads)
        : rows(given),
          stride(static_cast<std::size_t>(padded_dim(given.dim)) * kernels.code_size),
          together(static_cast<std::size_t>(kernels.together)),
          norms(static_cast<std::size_t>(given.count)),
          terms(norms.size()) {
        const std::size_t places = (norms.size() + together - 1) / together * together;
        if (center != nullptr) codes = std::make_unique<char[]>(places * stride);
        Encoder encoder(kernels, rows, {0, nullptr, norms.data(), nullptr, nullptr});
        parallel_for(ceil_div(rows.count, kBlock), threads, [&](std::int64_t block, int) {
            const std::int64_t last = std::min(rows.count, (block + 1) * kBlock);
            encoder.encode(block * kBlock, last);
            std::vector<double> line(static_cast<std::size_t>(padded_dim(rows.dim)));
            for (std::int64_t q = block * kBlock; q < last && codes != nullptr; ++q) {
                const auto i = static_cast<std::size_t>(q);
                const std::size_t place = i % together;
                const std::size_t step = static_cast<std::size_t>(kernels.alternate) * kernels.code_size;
                char* const first = codes.get() + (i - place) * stride + place * step;
                kernels.encode_query(rows.row(q), rows.dim, padded_dim(rows.dim), norms[i], center, line.data(), first,
                                     &terms[i]);
            }
        });
        encoder.check("queries");
    }

    const Rows rows;
    const std::size_t stride;  // bytes of one query's codes
    const std::size_t together;
    std::vector<double> norms;
    std::vector<QueryTerms> terms;
    std::unique_ptr<char[]> codes;
};

// What a thread has found for a block of queries.
struct Findings {
    Findings(std::int64_t queries, std::size_t k)
        : best(static_cast<std::size_t>(queries), Selection(k)),
          floors(best.size(), KthLargest(k)),
          waiting(best.size()),
          limits(best.size(), kLowest) {}

    std::vector<Selection> best;
    std::vector<KthLargest> floors;  // what vectors score at least
    std::vector<std::vector<Waiting>> waiting;
    std::vector<float> limits;  // scores below do not matter
};

class Search {
  public:
    Search(const Kernels& kernels, const Queries& queries, const Rows& bank, const Codes& codes,
           const std::int64_t* exclude, std::int64_t k)
        : kernels_(kernels),
          queries_(queries),
          bank_(bank),
          codes_(codes),
          exclude_(exclude),
          k_(k),
          room_(32 + kept() + 7 * std::min<std::size_t>(kept(), 16)),
          shared_(std::min(kBlock, queries.rows.count)) {}

    std::size_t kept() const { return static_cast<std::size_t>(std::min(k_, bank_.count)); }

    // Starts on the queries from `first` on.
    void begin(std::int64_t first) {
        first_ = first;
        for (std::atomic<float>& limit : shared_) limit.store(kLowest, std::memory_order_relaxed);
    }

    // Looks for queries [from, to) of the block in panels [first, last).
    void screen(std::int64_t from, std::int64_t to, std::int64_t first, std::int64_t last, Findings& found) {
        if (first == last) return;
        const auto places = static_cast<std::size_t>(kRunPanels * kernels_.group);
        const std::unique_ptr<float[][kPanelRows]> bounds(new float[places][kPanelRows]);
        const std::unique_ptr<std::uint16_t[]> rows(new std::uint16_t[places]);
        std::uint64_t passed[kRunPanels];
        const std::int64_t padded = padded_dim(bank_.dim);
        for (std::int64_t q = from; q < to; q += kernels_.group) {
            const std::int64_t count = std::min<std::int64_t>(kernels_.group, to - q);
            for (std::int64_t i = q; i < q + count; ++i) raise(static_cast<std::size_t>(i), found);
            const auto place = static_cast<std::size_t>(first_ + q);
            const QueryGroup group{static_cast<int>(count), queries_.codes.get() + place * queries_.stride,
                                   &queries_.terms[place], &found.limits[static_cast<std::size_t>(q)]};
            for (std::int64_t panel = first; panel < last; panel += kRunPanels) {
                const int run = static_cast<int>(std::min<std::int64_t>(kRunPanels, last - panel));
                const PanelRun panels{run, codes_.codes + panel * kPanelRows * padded, codes_.terms + panel};
                kernels_.screen(group, padded / kGroupWidth, panels, {bounds.get(), rows.get(), passed});
                for (int p = 0; p < run; ++p) {
                    for (; passed[p] != 0; passed[p] &= passed[p] - 1) {
                        const int i = lowest_bit(passed[p]);
                        const auto pair = static_cast<std::size_t>(p * kernels_.group + i);
                        remember(q + i, panel + p, rows[pair], bounds[pair], found);
                    }
                }
            }
        }
    }

    // Scores every row of [first, last) exactly for queries [from, to) of the block.
    void score(std::int64_t from, std::int64_t to, std::int64_t first, std::int64_t last, Findings& found) const {
        for (std::int64_t q = from; q < to; ++q) {
            for (std::int64_t row = first; row < last; row += kExactRows) {
                std::int64_t rows[kExactRows];
                const int count = static_cast<int>(std::min<std::int64_t>(kExactRows, last - row));
                for (int i = 0; i < count; ++i) rows[i] = row + i;
                offer(q, rows, count, found);
            }
        }
    }

    // Scores what still waits of queries [from, to) of the block, and writes the best of all findings.
    void finish(std::int64_t from, std::int64_t to, std::vector<Findings>& all, float* scores, std::int64_t* indices) {
        for (std::int64_t q = from; q < to; ++q) {
            Findings& found = all.front();
            const auto i = static_cast<std::size_t>(q);
            raise(i, found);
            for (Findings& other : all) {
                if (&other == &found) continue;
                found.best[i].merge(other.best[i]);
                found.waiting[i].insert(found.waiting[i].end(), other.waiting[i].begin(), other.waiting[i].end());
            }
            settle(q, found);
            std::int64_t place = (first_ + q) * k_;
            for (const Candidate& candidate : found.best[i].take()) {
                scores[place] = static_cast<float>(candidate.score);
                indices[place] = candidate.index;
                ++place;
            }
        }
    }

  private:
    // Tells the other threads how high the query's limit has risen, and adopts what they know.
    void raise(std::size_t i, Findings& found) {
        float known = shared_[i].load(std::memory_order_relaxed);
        while (known < found.limits[i] && !shared_[i].compare_exchange_weak(known, found.limits[i])) continue;
        found.limits[i] = std::max(found.limits[i], known);
    }

    // Puts rows of a panel, bit r for row r, on the list of what waits.
    void remember(std::int64_t q, std::int64_t panel, std::uint64_t rows, const float* bounds, Findings& found) {
        const auto i = static_cast<std::size_t>(q);
        const QueryTerms& query = queries_.terms[static_cast<std::size_t>(first_) + i];
        const PanelTerms& terms = codes_.terms[panel];
        for (; rows != 0; rows &= rows - 1) {
            const int r = lowest_bit(rows);
            const std::int64_t row = panel * kPanelRows + r;
            if (bounds[r] < found.limits[i] || excluded(q, row)) continue;  // the limit rises meanwhile
            found.floors[i].offer(floor_of(bounds[r], query, terms, r));
            found.limits[i] = std::max(found.limits[i], found.floors[i].value());
            std::vector<Waiting>& waiting = found.waiting[i];
            if (waiting.capacity() == 0) waiting.reserve(room_);
            waiting.push_back({bounds[r], row});
            if (waiting.size() == room_) thin(q, found);
        }
    }

    // Makes room in a list that is full.
    void thin(std::int64_t q, Findings& found) {
        const auto i = static_cast<std::size_t>(q);
        std::vector<Waiting>& waiting = found.waiting[i];
        const float limit = found.limits[i];
        const auto low = [limit](const Waiting& each) { return each.bound < limit; };
        waiting.erase(std::remove_if(waiting.begin(), waiting.end(), low), waiting.end());
        if (waiting.size() > room_ / 4 * 3) settle(q, found);
    }

    // Scores what waits and may belong to the answer.
    void settle(std::int64_t q, Findings& found) {
        const auto i = static_cast<std::size_t>(q);
        std::vector<Waiting>& waiting = found.waiting[i];
        auto end = waiting.end();
        std::make_heap(waiting.begin(), end, lower);
        while (end != waiting.begin() && waiting.front().bound >= found.limits[i]) {
            std::int64_t rows[kExactRows];
            int count = 0;
            while (count < kExactRows && end != waiting.begin() && waiting.front().bound >= found.limits[i]) {
                rows[count++] = waiting.front().index;
                std::pop_heap(waiting.begin(), end--, lower);
            }
            offer(q, rows, count, found);
        }
        waiting.clear();
    }

    // Scores these rows exactly.
    void offer(std::int64_t q, const std::int64_t* rows, int count, Findings& found) const {
        const float* places[kExactRows];
        double dots[kExactRows];
        for (int r = 0; r < count; ++r) places[r] = bank_.row(rows[r]);
        kernels_.dots(queries_.rows.row(first_ + q), places, count, bank_.dim, dots);
        const auto i = static_cast<std::size_t>(q);
        for (int r = 0; r < count; ++r) {
            if (excluded(q, rows[r])) continue;
            const double norm = queries_.norms[static_cast<std::size_t>(first_) + i] * codes_.norms[rows[r]];
            const double score = norm > 0.0 ? dots[r] / norm : 0.0;
            // Not a number, from a damaged file that was mapped: it comes last, or every comparison with it would fail.
            found.best[i].offer({std::isnan(score) ? kLowest : score, rows[r]});
        }
        found.limits[i] = std::max(found.limits[i], found.best[i].limit());
    }

    bool excluded(std::int64_t q, std::int64_t row) const { return exclude_ != nullptr && exclude_[first_ + q] == row; }

    const Kernels kernels_;
    const Queries& queries_;
    const Rows bank_;
    const Codes codes_;
    const std::int64_t* const exclude_;
    const std::int64_t k_;
    const std::size_t room_;  // for what waits of a query: several times k while that is cheap
    std::int64_t first_ = 0;
    std::vector<std::atomic<float>> shared_;  // the highest limit that any thread knows, for each query of the block
};

// Rows [first, last) of the bank, prepared before they are searched for the first time.
using Prepare = std::function<void(std::int64_t first, std::int64_t last)>;

void run(const Rows& query_rows, const Rows& bank, const Codes& codes, const std::int64_t* exclude, std::int64_t k,
         int threads, const Prepare& prepare, float* scores, std::int64_t* indices) {
    std::fill_n(scores, query_rows.count * k, kLowest);
    std::fill_n(indices, query_rows.count * k, std::int64_t{-1});
    const Kernels kernels = kernels_of(instruction_set());
    const double products = static_cast<double>(query_rows.count) * static_cast<double>(bank.count * bank.dim);
    if (products < 8.0 * kWorthThreads) threads = 1;
    const Queries queries(kernels, query_rows, codes.panels == 0 ? nullptr : codes.center, threads);
    Search search(kernels, queries, bank, codes, exclude, k);

    const std::int64_t panels = std::max<std::int64_t>(1, kSliceBytes / (kPanelRows * padded_dim(bank.dim)));
    const std::int64_t slice = panels * kPanelRows;
    const std::int64_t slices = ceil_div(bank.count, slice);
    const auto look = [&](std::int64_t from, std::int64_t to, std::int64_t i, Findings& found) {
        const std::int64_t first = i * slice, last = std::min(bank.count, first + slice);
        const std::int64_t screened = std::clamp(codes.panels * kPanelRows, first, last);
        search.screen(from, to, first / kPanelRows, screened / kPanelRows, found);
        search.score(from, to, screened, last, found);
    };

    const bool by_queries = slices < 2 * threads && query_rows.count > threads;
    if (by_queries && prepare) {
        parallel_for(slices, threads,
                     [&](std::int64_t i, int) { prepare(i * slice, std::min(bank.count, (i + 1) * slice)); });
    }
    for (std::int64_t first = 0; first < query_rows.count; first += kBlock) {
        const std::int64_t count = std::min(kBlock, query_rows.count - first);
        const std::int64_t part = ceil_div(ceil_div(count, 2 * threads), kernels.group) * kernels.group;
        search.begin(first);
        if (by_queries) {
            parallel_for(ceil_div(count, part), threads, [&](std::int64_t task, int) {
                std::vector<Findings> found(1, Findings(count, search.kept()));
                const std::int64_t from = task * part, to = std::min(count, from + part);
                for (std::int64_t i = 0; i < slices; ++i) look(from, to, i, found.front());
                search.finish(from, to, found, scores, indices);
            });
            continue;
        }
        std::vector<Findings> found(static_cast<std::size_t>(threads), Findings(count, search.kept()));
        parallel_for(slices, threads, [&](std::int64_t i, int worker) {
            if (first == 0 && prepare) prepare(i * slice, std::min(bank.count, (i + 1) * slice));
            look(0, count, i, found[static_cast<std::size_t>(worker)]);
        });
        parallel_for(ceil_div(count, part), count < 64 ? 1 : threads, [&](std::int64_t task, int) {
            search.finish(task * part, std::min(count, (task + 1) * part), found, scores, indices);
        });
    }
}

}  // namespace

void cosine_topk(const Rows& queries, const Rows& bank, const Codes& codes, const std::int64_t* exclude, std::int64_t k,
                 int threads, float* scores, std::int64_t* indices) {
    run(queries, bank, codes, exclude, k, threads, nullptr, scores, indices);
}

void cosine_topk(const Rows& queries, const Rows& bank, const std::int64_t* exclude, std::int64_t k, int threads,
                 float* scores, std::int64_t* indices) {
    const std::int64_t panels = queries.count < kFewQueries ? 0 : panels_of(bank.count, bank.dim);
    const auto rows = static_cast<std::size_t>(panels * kPanelRows);
    const std::unique_ptr<double[]> norms(new double[static_cast<std::size_t>(bank.count)]);
    const std::unique_ptr<std::int8_t[]> copy(new std::int8_t[rows * static_cast<std::size_t>(padded_dim(bank.dim))]);
    const std::unique_ptr<PanelTerms[]> terms(new PanelTerms[static_cast<std::size_t>(panels)]);
    std::vector<float> center(static_cast<std::size_t>(padded_dim(bank.dim)));
    if (panels != 0) center_of(bank, center.data());
    const Codes codes{panels, center.data(), norms.get(), copy.get(), terms.get()};
    Encoder encoder(kernels_of(instruction_set()), bank, codes);
    run(
        queries, bank, codes, exclude, k, threads,
        [&](std::int64_t first, std::int64_t last) { encoder.encode(first, last); }, scores, indices);
    if (queries.count == 0) encoder.encode(0, bank.count);  // checked even if there is nothing to look for
    encoder.check("bank");
}

}  // namespace pymetaner
