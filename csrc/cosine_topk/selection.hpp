// The k best of a stream of candidates, and the candidates that wait to be scored.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace pymetaner {

struct Candidate {
    double score;
    std::int64_t index;
};

// The order of the answer: score descending, index ascending. It is total, so the k best of a set do not depend on
// the order in which its members are seen.
struct Earlier {
    bool operator()(const Candidate& a, const Candidate& b) const {
        return a.score > b.score || (a.score == b.score && a.index < b.index);
    }
};

// The k first items of a stream, in the order `Before`.
template <typename Item, typename Before>
class First {
  public:
    explicit First(std::size_t k) : k_(k) {}

    void offer(const Item& item) {
        if (kept_.size() < k_) {
            kept_.push_back(item);
            std::push_heap(kept_.begin(), kept_.end(), Before());
        } else if (k_ > 0 && Before()(item, kept_.front())) {
            std::pop_heap(kept_.begin(), kept_.end(), Before());
            kept_.back() = item;
            std::push_heap(kept_.begin(), kept_.end(), Before());
        }
    }

  protected:
    std::size_t k_;
    std::vector<Item> kept_;  // a heap whose top is the last of them
};

// The k best candidates.
class Selection : public First<Candidate, Earlier> {
  public:
    using First::First;

    void merge(const Selection& other) {
        for (const Candidate& candidate : other.kept_) offer(candidate);
    }

    // What a candidate must score, at least, to be kept, rounded down.
    float limit() const {
        if (kept_.size() < k_) return -std::numeric_limits<float>::infinity();
        if (k_ == 0) return std::numeric_limits<float>::infinity();
        const auto rounded = static_cast<float>(kept_.front().score);
        return static_cast<double>(rounded) <= kept_.front().score
                   ? rounded
                   : std::nextafter(rounded, -std::numeric_limits<float>::infinity());
    }

    // The kept candidates in order; the selection is empty afterwards.
    std::vector<Candidate> take() {
        std::sort_heap(kept_.begin(), kept_.end(), Earlier());
        return std::move(kept_);
    }
};

// The k-th largest of a stream of numbers.
class KthLargest : public First<float, std::greater<float>> {
  public:
    using First::First;

    // -infinity while there are fewer.
    float value() const {
        return k_ > 0 && kept_.size() == k_ ? kept_.front() : -std::numeric_limits<float>::infinity();
    }
};

// A vector whose cosine is at most `bound`.
struct Waiting {
    float bound;
    std::int64_t index;
};

inline constexpr auto lower = [](const Waiting& a, const Waiting& b) { return a.bound < b.bound; };

}  // namespace pymetaner
