#include "cosine_topk/arguments.hpp"

namespace py = pybind11;

namespace pymetaner {
namespace {

using Array = const py::array&;

// An encoded bank: a norm a row; codes (panels, padded / 4, 16, 4); 16 scales and 16 residuals a panel.
Codes codes_of(const Rows& rows, Array norms, Array codes, Array scales, Array residuals) {
    check_contiguous<double>(norms, "norms", 1);
    check_contiguous<std::int8_t>(codes, "codes", 4);
    check_contiguous<float>(scales, "scales", 1);
    check_contiguous<float>(residuals, "residuals", 1);
    const py::ssize_t panels = codes.shape(0), most = panels_of(rows.count, rows.dim), fours = padded_dim(rows.dim) / 4;
    if (panels > most || codes.shape(1) != fours || codes.shape(2) != 16 || codes.shape(3) != 4) {
        throw py::value_error("codes have " + std::to_string(panels) + " panels for " + std::to_string(rows.count) +
                              " rows: expected at most " + std::to_string(most) + " of (" + std::to_string(fours) +
                              ", 16, 4)");
    }
    check_length(norms, "norms", rows.count);
    check_length(scales, "scales", 16 * panels);
    check_length(residuals, "residuals", 16 * panels);
    const auto at = [](Array array) { return const_cast<void*>(array.data()); };
    return {panels, static_cast<double*>(at(norms)), static_cast<std::int8_t*>(at(codes)),
            static_cast<float*>(at(scales)), static_cast<float*>(at(residuals))};
}

void bound_encode(Array rows, Array norms, Array codes, Array scales, Array residuals, int threads) {
    const bool writeable = norms.writeable() && codes.writeable() && scales.writeable() && residuals.writeable();
    if (!writeable) throw py::value_error("norms, codes, scales and residuals must be writeable");
    check_threads(threads);
    const Rows vectors = rows_of(rows, "rows");
    const Codes out = codes_of(vectors, norms, codes, scales, residuals);
    const py::gil_scoped_release release;
    encode(vectors, threads, out);
}

py::tuple bound_search(Array queries, Array bank, Array norms, Array codes, Array scales, Array residuals,
                       std::int64_t k, const std::optional<py::array>& exclude, int threads) {
    const Rows q = rows_of(queries, "queries"), b = rows_of(bank, "bank");
    const Codes encoded = codes_of(b, norms, codes, scales, residuals);
    return searched(q, b, k, exclude, threads, [&](auto* left_out, float* scores, std::int64_t* indices) {
        cosine_topk(q, b, encoded, left_out, k, threads, scores, indices);
    });
}

}  // namespace

void register_encoded_bank(py::module_& module) {
    module.def("encode_bank", &bound_encode, py::arg("rows"), py::arg("norms"), py::arg("codes"), py::arg("scales"),
               py::arg("residuals"), py::arg("threads") = 1);
    module.def("search_bank", &bound_search, py::arg("queries"), py::arg("bank"), py::arg("norms"), py::arg("codes"),
               py::arg("scales"), py::arg("residuals"), py::arg("k"), py::arg("exclude") = py::none(),
               py::arg("threads") = 1);
}

}  // namespace pymetaner
