#include "masked_token_loss/masked_token_loss.hpp"

#include <string>

#include "register.hpp"

namespace py = pybind11;

namespace pymetaner {
namespace {

// `Element` is what NumPy has for the type of the logits.
template <typename Logit, typename Element = Logit>
py::tuple run(const py::array& logits, const py::array& labels, double lambda_max, std::int64_t ignore_index,
              int threads) {
    check_contiguous<Element>(logits, "logits", 3);
    check_contiguous<std::int64_t>(labels, "labels", 2);
    const py::ssize_t sentences = logits.shape(0), tokens = logits.shape(1), classes = logits.shape(2);
    if (labels.shape(0) != sentences || labels.shape(1) != tokens || classes < 1) {
        throw py::value_error("logits of shape (" + std::to_string(sentences) + ", " + std::to_string(tokens) + ", " +
                              std::to_string(classes) + ") with labels of shape (" + std::to_string(labels.shape(0)) +
                              ", " + std::to_string(labels.shape(1)) + "): expected (B, T, C), C > 0, with (B, T)");
    }
    check_threads(threads);
    py::array_t<ResultOf<Logit>> loss(sentences);
    py::array_t<ResultOf<Logit>> gradient({sentences, tokens, classes});
    const auto* const logits_in = static_cast<const Logit*>(logits.data());
    const auto* const labels_in = static_cast<const std::int64_t*>(labels.data());
    ResultOf<Logit>* const loss_out = loss.mutable_data();
    ResultOf<Logit>* const gradient_out = gradient.mutable_data();
    {
        const py::gil_scoped_release release;
        masked_token_loss(logits_in, labels_in, sentences, tokens, classes, lambda_max, ignore_index, threads, loss_out,
                          gradient_out);
    }
    return py::make_tuple(loss, gradient);
}

py::tuple bound_masked_token_loss(const py::array& logits, const py::array& labels, double lambda_max,
                                  std::int64_t ignore_index, int threads) {
    const auto apply = [&](auto run_as, const py::array& array) {
        return run_as(array, labels, lambda_max, ignore_index, threads);
    };
    if (!logits.dtype().attr("isnative").cast<bool>()) throw py::value_error("logits are not in native byte order");
    if (logits.dtype().kind() == 'i') return apply(&run<BFloat16, std::int16_t>, logits);  // their bits
    if (logits.dtype().kind() != 'f' || logits.itemsize() == 4) return apply(&run<float>, logits);
    if (logits.itemsize() == 2) return apply(&run<Float16, std::int16_t>, py::array(logits).view("int16"));
    return apply(&run<double>, logits);
}

}  // namespace

void register_masked_token_loss(py::module_& module) {
    module.def("masked_token_loss", &bound_masked_token_loss, py::arg("logits"), py::arg("labels"),
               py::arg("lambda_max"), py::arg("ignore_index") = -100, py::arg("threads") = 1);
}

}  // namespace pymetaner
