#include "cosine_topk/arguments.hpp"

namespace py = pybind11;

namespace pymetaner {
namespace {

// The arrays of an encoded bank: norms of each of its rows; codes (panels, padded / 4, 16, 4); scales and residuals,
// 16 for each panel.
Codes codes_of(const Rows& rows, const py::array& norms, const py::array& codes, const py::array& scales,
               const py::array& residuals) {
    check_contiguous<double>(norms, "norms", 1);
    check_contiguous<std::int8_t>(codes, "codes", 4);
    check_contiguous<float>(scales, "scales", 1);
    check_contiguous<float>(residuals, "residuals", 1);
    const py::ssize_t panels = codes.shape(0), most = panels_of(rows.count, rows.dim);
    const py::ssize_t fours = padded_dim(rows.dim) / 4;
    if (panels > most || codes.shape(1) != fours || codes.shape(2) != 16 || codes.shape(3) != 4) {
        throw py::value_error("codes have " + std::to_string(panels) + " panels: expected at most " +
                              std::to_string(most) + " of (" + std::to_string(fours) + ", 16, 4)");
    }
    check_length(norms, "norms", rows.count);
    check_length(scales, "scales", 16 * panels);
    check_length(residuals, "residuals", 16 * panels);
    const auto pointer = [](const py::array& array) { return const_cast<void*>(array.data()); };
    return {panels, static_cast<double*>(pointer(norms)), static_cast<std::int8_t*>(pointer(codes)),
            static_cast<float*>(pointer(scales)), static_cast<float*>(pointer(residuals))};
}

void bound_encode(const py::array& rows, const py::array& norms, const py::array& codes, const py::array& scales,
                  const py::array& residuals, int threads) {
    for (const py::array& array : {norms, codes, scales, residuals}) {
        if (!array.writeable()) throw py::value_error("norms, codes, scales and residuals must be writeable");
    }
    check_threads(threads);
    const Rows vectors = rows_of(rows, "rows");
    const Codes out = codes_of(vectors, norms, codes, scales, residuals);
    const py::gil_scoped_release release;
    encode(vectors, threads, out);
}

py::tuple bound_search(const py::array& queries, const py::array& bank, const py::array& norms, const py::array& codes,
                       const py::array& scales, const py::array& residuals, std::int64_t k,
                       const std::optional<py::array>& exclude, int threads) {
    const Rows q = rows_of(queries, "queries"), b = rows_of(bank, "bank");
    const Codes encoded = codes_of(b, norms, codes, scales, residuals);
    return searched(q, b, k, exclude, threads, [&](auto* left_out, float* scores, std::int64_t* indices) {
        cosine_topk(q, b, encoded, left_out, k, threads, scores, indices);
    });
}

}  // namespace

void register_encoded_bank(py::module_& module) {
    using py::arg;
    module.def("encode_bank", &bound_encode, arg("rows"), arg("norms"), arg("codes"), arg("scales"), arg("residuals"),
               arg("threads") = 1);
    module.def("search_bank", &bound_search, arg("queries"), arg("bank"), arg("norms"), arg("codes"), arg("scales"),
               arg("residuals"), arg("k"), arg("exclude") = py::none(), arg("threads") = 1);
}

}  // namespace pymetaner
