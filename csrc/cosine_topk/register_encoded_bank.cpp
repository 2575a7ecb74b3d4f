#include <numeric>

#include "cosine_topk/arguments.hpp"

namespace py = pybind11;

namespace pymetaner {
namespace {

using Array = const py::array&;

// Throws ValueError unless the bound of screening.hpp holds with this centre.
void check_center(Array center, py::ssize_t length) {
    check_contiguous<float>(center, "center", 1);
    check_length(center, "center", length);
    const auto* const first = static_cast<const float*>(center.data());
    const double square = std::inner_product(first, first + length, first, 0.0);
    if (square <= 1.001) return;
    throw py::value_error("center has the squared length " + std::to_string(square) + ": expected at most 1");
}

// An encoded bank: a centre (padded); a norm a row; codes (panels, padded / 4, 16, 4); terms (panels, 4, 16).
Codes codes_of(const Rows& rows, Array center, Array norms, Array codes, Array terms) {
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
    const auto at = [](Array array) { return const_cast<void*>(array.data()); };
    return {panels, static_cast<const float*>(center.data()), static_cast<double*>(at(norms)),
            static_cast<std::int8_t*>(at(codes)), static_cast<PanelTerms*>(at(terms))};
}

py::array_t<float> bound_center(Array rows) {
    const Rows vectors = rows_of(rows, "rows");
    py::array_t<float> center(padded_dim(vectors.dim));
    float* const out = center.mutable_data();
    const py::gil_scoped_release release;
    center_of(vectors, out);
    return center;
}

void bound_encode(Array rows, Array center, Array norms, Array codes, Array terms, int threads) {
    const bool writeable = norms.writeable() && codes.writeable() && terms.writeable();
    if (!writeable) throw py::value_error("norms, codes and terms must be writeable");
    check_threads(threads);
    const Rows vectors = rows_of(rows, "rows");
    const Codes out = codes_of(vectors, center, norms, codes, terms);
    const py::gil_scoped_release release;
    encode(vectors, threads, out);
}

py::tuple bound_search(Array queries, Array bank, Array center, Array norms, Array codes, Array terms, std::int64_t k,
                       const std::optional<py::array>& exclude, int threads) {
    const Rows q = rows_of(queries, "queries"), b = rows_of(bank, "bank");
    const Codes encoded = codes_of(b, center, norms, codes, terms);
    return searched(q, b, k, exclude, threads, [&](auto* left_out, float* scores, std::int64_t* indices) {
        cosine_topk(q, b, encoded, left_out, k, threads, scores, indices);
    });
}

}  // namespace

void register_encoded_bank(py::module_& module) {
    module.def("bank_center", &bound_center, py::arg("rows"));
    module.def("encode_bank", &bound_encode, py::arg("rows"), py::arg("center"), py::arg("norms"), py::arg("codes"),
               py::arg("terms"), py::arg("threads") = 1);
    module.def("search_bank", &bound_search, py::arg("queries"), py::arg("bank"), py::arg("center"), py::arg("norms"),
               py::arg("codes"), py::arg("terms"), py::arg("k"), py::arg("exclude") = py::none(),
               py::arg("threads") = 1);
}

}  // namespace pymetaner
