// The core without Python, small enough for the sanitizers, on every instruction set of the machine: threads, the top-k
// against a full sort, the gradient against finite differences, and the lists that the CUDA kernels keep.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/elementary.hpp"
#include "common/error.hpp"
#include "common/instruction_set.hpp"
#include "common/parallel.hpp"
#include "cosine_topk/cosine_topk.hpp"
#include "cosine_topk/ranking.hpp"
#include "masked_token_loss/masked_token_loss.hpp"

namespace {

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "failed: %s\n", what);
    std::exit(1);
}

template <typename Function>
bool throws(const Function& function) {
    try {
        function();
    } catch (const pymetaner::InvalidInput&) {
        return true;
    }
    return false;
}

std::vector<float> random_floats(std::mt19937& generator, std::size_t count, bool whole) {
    std::uniform_real_distribution<float> uniform(-2.0F, 2.0F);
    std::vector<float> values(count);
    for (float& value : values) value = whole ? std::round(uniform(generator)) : uniform(generator);
    return values;
}

void test_parallel_for() {
    for (const int threads : {1, 2, 7}) {
        std::vector<std::atomic<int>> seen(100);
        pymetaner::parallel_for(100, threads, [&](std::int64_t task, int) { ++seen[static_cast<std::size_t>(task)]; });
        require(std::all_of(seen.begin(), seen.end(), [](const auto& n) { return n == 1; }), "every task runs once");
        require(throws([&] {
                    pymetaner::parallel_for(100, threads, [](std::int64_t task, int) {
                        if (task == 42) throw pymetaner::InvalidInput("42");
                    });
                }),
                "an exception of a task reaches the caller");
    }
}

void test_elementary() {
    for (double x = 0.0; x > -708.0; x -= 0.00917) {
        require(std::fabs(pymetaner::exp_nonpositive(x) / std::exp(x) - 1.0) < 5e-16, "the exponential is right");
    }
    for (double x = 1.0; x < 1e6; x *= 1.00013) {
        require(std::fabs(pymetaner::log_of_sum(x) - std::log(x)) <= 3e-16 * (1.0 + std::log(x)), "the logarithm too");
    }
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    require(pymetaner::exp_nonpositive(0.0) == 1.0 && pymetaner::log_of_sum(1.0) == 0.0, "1 and 0 are exact");
    require(pymetaner::exp_nonpositive(-infinity) == 0.0 && pymetaner::exp_nonpositive(-709.0) == 0.0, "0 far below");
    require(std::isnan(pymetaner::exp_nonpositive(nan)) && std::isnan(pymetaner::log_of_sum(nan)), "NaN stays NaN");
}

void test_instruction_sets() {
    const std::vector<std::string> sets = pymetaner::instruction_sets();
    require(!sets.empty() && sets.front() == "scalar", "there is always the scalar path");
    pymetaner::use_instruction_set(sets.back());
    require(pymetaner::name_of(pymetaner::instruction_set()) == sets.back(), "a set that is asked for is used");
    bool refused = false;
    try {
        pymetaner::use_instruction_set("fast");
    } catch (const pymetaner::InstructionSetError&) {
        refused = true;
    }
    require(refused && pymetaner::name_of(pymetaner::instruction_set()) == sets.back(), "an unknown set is refused");
}

void test_float_exponential() {
    for (float x = 0.0F; x > -87.0F; x -= 0.000917F) {
        const double right = std::exp(static_cast<double>(x));
        require(std::fabs(pymetaner::exp_nonpositive(x) / right - 1.0) < 2.5e-7, "the float exponential is right");
    }
    const float infinity = std::numeric_limits<float>::infinity();
    require(pymetaner::exp_nonpositive(0.0F) == 1.0F && pymetaner::exp_nonpositive(-infinity) == 0.0F, "1 and 0 exact");
    require(std::isnan(pymetaner::exp_nonpositive(std::numeric_limits<float>::quiet_NaN())), "NaN stays NaN");
}

void test_ranking() {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> ascending{-infinity, -1.5F, -1e-40F, 0.0F, 1e-40F, 0.25F, 1.0F, infinity};
    std::uint32_t before = pymetaner::order_key(std::numeric_limits<float>::quiet_NaN());
    require(before == 0, "NaN comes before all floats");
    for (const float x : ascending) {
        const std::uint32_t key = pymetaner::order_key(x);
        require(key > before && pymetaner::float_of_key(key) == x, "keys have the order of the floats, and name them");
        before = key;
    }
    require(pymetaner::ranks_before({0.5, 7}, {0.25, 3}) && pymetaner::ranks_before({0.5, 3}, {0.5, 7}) &&
                !pymetaner::ranks_before({0.5, 3}, {0.5, 3}),
            "score descending, index ascending");
    for (const int group : {4, 16}) {
        std::vector<int> seen(256, 0);
        for (std::int64_t number = 0; number < 256 / group; ++number) {
            for (int member = 0; member < group; ++member) {
                ++seen[static_cast<std::size_t>(pymetaner::group_row(number, group, member))];
            }
        }
        require(std::count(seen.begin(), seen.end(), 1) == 256, "every row of a tile is in one group");
    }
}

void test_cosine_topk(std::int64_t dim) {
    std::mt19937 generator(0);
    const std::int64_t stride = dim + 4;
    constexpr std::int64_t k = 5;
    for (const std::int64_t count : {1, 70, 200}) {
        for (const std::int64_t size : {0, 3, 700}) {
            const auto q = random_floats(generator, static_cast<std::size_t>(count * stride), true);
            const auto b = random_floats(generator, static_cast<std::size_t>(size * stride), true);
            const pymetaner::Rows queries{q.data(), count, dim, stride};
            const pymetaner::Rows bank{b.data(), size, dim, stride};
            std::vector<std::int64_t> expected;
            for (std::int64_t i = 0; i < count; ++i) {
                std::vector<double> scores(static_cast<std::size_t>(size));
                for (std::int64_t j = 0; j < size; ++j) {
                    double dot = 0.0, qq = 0.0, bb = 0.0;  // whole numbers: exact in any order
                    for (std::int64_t d = 0; d < dim; ++d) {
                        const double x = queries.row(i)[d], y = bank.row(j)[d];
                        dot += x * y, qq += x * x, bb += y * y;
                    }
                    const double norm = std::sqrt(qq) * std::sqrt(bb);
                    scores[static_cast<std::size_t>(j)] = norm > 0.0 ? dot / norm : 0.0;
                }
                std::vector<std::int64_t> order(static_cast<std::size_t>(size));
                std::iota(order.begin(), order.end(), 0);
                std::stable_sort(order.begin(), order.end(), [&](std::int64_t x, std::int64_t y) {
                    return scores[static_cast<std::size_t>(x)] > scores[static_cast<std::size_t>(y)];
                });
                order.resize(k, -1);
                expected.insert(expected.end(), order.begin(), order.end());
            }
            for (const int threads : {1, 2, 5}) {
                std::vector<float> scores(static_cast<std::size_t>(count * k));
                std::vector<std::int64_t> indices(static_cast<std::size_t>(count * k));
                pymetaner::cosine_topk(queries, bank, nullptr, k, threads, scores.data(), indices.data());
                require(indices == expected, "cosine_topk finds what a full sort finds");

                const std::int64_t panels = pymetaner::panels_of(size, dim);
                std::vector<double> norms(static_cast<std::size_t>(size));
                std::vector<std::int8_t> codes(static_cast<std::size_t>(panels * 16 * pymetaner::padded_dim(dim)));
                std::vector<pymetaner::PanelTerms> terms(static_cast<std::size_t>(panels));
                std::vector<float> center(static_cast<std::size_t>(pymetaner::padded_dim(dim)));
                pymetaner::center_of(bank, center.data());
                const pymetaner::Codes encoded{panels, center.data(), norms.data(), codes.data(), terms.data()};
                pymetaner::encode(bank, threads, encoded);
                std::fill(indices.begin(), indices.end(), -2);
                pymetaner::cosine_topk(queries, bank, encoded, nullptr, k, threads, scores.data(), indices.data());
                require(indices == expected, "and so it does in an encoded bank");
            }
        }
    }
    std::vector<float> bad(8, 1.0F);
    bad[5] = std::numeric_limits<float>::quiet_NaN();
    const pymetaner::Rows rows{bad.data(), 2, 4, 4};
    float scores[2];
    std::int64_t indices[2];
    require(throws([&] { pymetaner::cosine_topk(rows, {bad.data(), 1, 4, 4}, nullptr, 1, 2, scores, indices); }),
            "NaN is refused");
}

void test_masked_token_loss() {
    constexpr std::int64_t sentences = 90, tokens = 6, classes = 43;
    std::mt19937 generator(1);
    const auto floats = random_floats(generator, sentences * tokens * classes, false);
    std::vector<double> logits(floats.begin(), floats.end());
    std::vector<std::int64_t> labels(sentences * tokens);
    for (std::int64_t& label : labels) label = static_cast<std::int64_t>(generator() % (classes + 5));
    for (std::int64_t& label : labels) label = label < classes ? label : -100;
    std::fill_n(labels.begin(), tokens, -100);

    const auto run = [&](int threads, std::vector<double>& gradient) {
        std::vector<double> loss(sentences);
        gradient.resize(logits.size());
        pymetaner::masked_token_loss(logits.data(), labels.data(), sentences, tokens, classes, 2.0, -100, threads,
                                     loss.data(), gradient.data());
        return loss;
    };
    std::vector<double> gradient, other;
    const auto loss = run(1, gradient);
    require(loss[0] == 0.0, "a sentence without counted tokens has no loss");
    for (const int threads : {2, 5}) {
        require(run(threads, other) == loss && other == gradient, "the loss does not depend on the number of threads");
    }
    for (std::size_t place = 0; place < logits.size(); place += 397) {
        constexpr double step = 1e-6;
        const std::size_t sentence = place / (tokens * classes);
        const double at = logits[place];
        logits[place] = at + step;
        const double above = run(1, other)[sentence];
        logits[place] = at - step;
        const double below = run(1, other)[sentence];
        logits[place] = at;
        require(std::fabs((above - below) / (2 * step) - gradient[place]) < 1e-7, "the gradient is the slope");
    }
    for (const std::int64_t few : {1, 7, 8, 9, 13}) {  // nothing behind the rows: sanitizers see what goes beyond
        const auto rows = random_floats(generator, static_cast<std::size_t>(5 * few), false);
        const std::vector<std::int64_t> own(5, few - 1);
        std::vector<float> one(1), slope(rows.size());
        pymetaner::masked_token_loss(rows.data(), own.data(), 1, 5, few, 2.0, -100, 1, one.data(), slope.data());
        for (auto row = slope.begin(); row != slope.end(); row += few) {
            require(std::fabs(std::accumulate(row, row + few, 0.0)) < 1e-6, "the gradient of a token adds up to 0");
        }
    }
    labels[tokens] = classes;
    require(throws([&] { run(3, other); }), "a label outside the classes is refused");
}

}  // namespace

int main() {
    test_parallel_for();
    test_elementary();
    test_float_exponential();
    test_ranking();
    test_instruction_sets();
    for (const std::string& set : pymetaner::instruction_sets()) {
        pymetaner::use_instruction_set(set);
        for (const std::int64_t dim : {19, 200}) test_cosine_topk(dim);
        test_masked_token_loss();
    }
    std::puts("core: all tests passed");
}
