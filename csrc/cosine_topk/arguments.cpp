#include "cosine_topk/arguments.hpp"

#include <numeric>

namespace py = pybind11;

namespace pymetaner {
namespace {

// Throws ValueError unless the bound of screening.hpp holds with this centre.
void check_center(const py::array& center, py::ssize_t length) {
    check_contiguous<float>(center, "center", 1);
    check_length(center, "center", length);
    const auto* const first = static_cast<const float*>(center.data());
    const double square = std::inner_product(first, first + length, first, 0.0);
    if (square <= 1.001) return;
    throw py::value_error("center has the squared length " + std::to_string(square) + ": expected at most 1");
}

}  // namespace

Rows rows_of(const py::array& array, const char* name) {
    check_array<float>(array, name, 2);
    constexpr auto size = static_cast<py::ssize_t>(sizeof(float));
    const bool contiguous = array.size() == 0 || array.shape(1) == 1 || array.strides(1) == size;
    if (!contiguous || array.strides(0) % size != 0) {
        throw py::value_error(std::string(name) + " has rows that are not contiguous: pass numpy.ascontiguousarray");
    }
    if (array.shape(1) < 1) throw py::value_error(std::string(name) + " have no dimensions: expected at least 1");
    return {static_cast<const float*>(array.data()), array.shape(0), array.shape(1), array.strides(0) / size};
}

Codes codes_of(const Rows& rows, const py::array& center, const py::array& norms, const py::array& codes,
               const py::array& terms) {
    check_contiguous<double>(norms, "norms", 1);
    check_contiguous<std::int8_t>(codes, "codes", 4);
    check_contiguous<float>(terms, "terms", 3);
    check_center(center, padded_dim(rows.dim));
    const py::ssize_t panels = codes.shape(0), most = panels_of(rows.count, rows.dim), fours = padded_dim(rows.dim) / 4;
    if (panels > most || codes.shape(1) != fours || codes.shape(2) != 16 || codes.shape(3) != 4) {
        throw py::value_error("codes have " + std::to_string(panels) + " panels for " + std::to_string(rows.count) +
                              " rows: expected at most " + std::to_string(most) + " of (" + std::to_string(fours) +
                              ", 16, 4)");
    }
    check_length(norms, "norms", rows.count);
    check_length(terms, "terms", panels);
    if (terms.shape(1) != 4 || terms.shape(2) != 16) throw py::value_error("terms are not (panels, 4, 16)");
    const auto at = [](const py::array& array) { return const_cast<void*>(array.data()); };
    return {panels, static_cast<const float*>(center.data()), static_cast<double*>(at(norms)),
            static_cast<std::int8_t*>(at(codes)), static_cast<PanelTerms*>(at(terms))};
}

py::tuple searched(const Rows& queries, const Rows& bank, std::int64_t k, const std::optional<py::array>& exclude,
                   int threads, const SearchFunction& search) {
    if (queries.dim != bank.dim) {
        throw py::value_error("queries have " + std::to_string(queries.dim) + " dimensions and the bank " +
                              std::to_string(bank.dim) + ": they must agree");
    }
    if (k < 1) throw py::value_error("k is " + std::to_string(k) + ": expected at least 1");
    check_threads(threads);
    const std::int64_t* left_out = nullptr;
    if (exclude) {
        check_contiguous<std::int64_t>(*exclude, "exclude", 1);
        check_length(*exclude, "exclude", queries.count);
        left_out = static_cast<const std::int64_t*>(exclude->data());
    }
    py::array_t<float> scores({queries.count, k});
    py::array_t<std::int64_t> indices({queries.count, k});
    float* const scores_out = scores.mutable_data();
    std::int64_t* const indices_out = indices.mutable_data();
    {
        const py::gil_scoped_release release;
        search(left_out, scores_out, indices_out);
    }
    return py::make_tuple(scores, indices);
}

}  // namespace pymetaner
