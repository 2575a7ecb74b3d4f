#include "masked_token_loss/masked_token_loss.hpp"

#include <string>

#include "register.hpp"

namespace py = pybind11;

namespace pymetaner {
namespace {

template <typename Real>
py::tuple run(const py::array& logits, const py::array& labels, double lambda_max, std::int64_t ignore_index,
              int threads) {
    check_contiguous<Real>(logits, "logits", 3);
    check_contiguous<std::int64_t>(labels, "labels", 2);
    const py::ssize_t sentences = logits.shape(0);
    const py::ssize_t tokens = logits.shape(1);
    const py::ssize_t classes = logits.shape(2);
    if (labels.shape(0) != sentences || labels.shape(1) != tokens || classes < 1) {
        throw py::value_error("logits of shape (" + std::to_string(sentences) + ", " + std::to_string(tokens) + ", " +
                              std::to_string(classes) + ") with labels of shape (" + std::to_string(labels.shape(0)) +
                              ", " + std::to_string(labels.shape(1)) + "): expected (B, T, C), C > 0, with (B, T)");
    }
    if (threads < 1) throw py::value_error("threads is " + std::to_string(threads) + ": expected at least 1");
    py::array_t<Real> loss(sentences);
    py::array_t<Real> gradient({sentences, tokens, classes});
    const auto* const logits_in = static_cast<const Real*>(logits.data());
    const auto* const labels_in = static_cast<const std::int64_t*>(labels.data());
    Real* const loss_out = loss.mutable_data();
    Real* const gradient_out = gradient.mutable_data();
    {
        const py::gil_scoped_release release;
        masked_token_loss(logits_in, labels_in, sentences, tokens, classes, lambda_max, ignore_index, threads, loss_out,
                          gradient_out);
    }
    return py::make_tuple(loss, gradient);
}

py::tuple bound_masked_token_loss(const py::array& logits, const py::array& labels, double lambda_max,
                                  std::int64_t ignore_index, int threads) {
    return py::isinstance<py::array_t<double>>(logits) ? run<double>(logits, labels, lambda_max, ignore_index, threads)
                                                       : run<float>(logits, labels, lambda_max, ignore_index, threads);
}

}  // namespace

void register_masked_token_loss(py::module_& module) {
    module.def("masked_token_loss", &bound_masked_token_loss, py::arg("logits"), py::arg("labels"),
               py::arg("lambda_max"), py::arg("ignore_index") = -100, py::arg("threads") = 1);
}

}  // namespace pymetaner
