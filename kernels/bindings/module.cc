// Names, types and documentation only: the work is in asa_kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "asa/isa.h"
#include "asa/log_mel.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Samples = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig>;

Matrix new_matrix(size_t rows, size_t columns) {
  float* data = new float[rows * columns];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Matrix(data, {rows, columns}, owner);
}

Matrix close_window(asa::LogMelWindow& window) {
  window.check_closable();
  Matrix out = new_matrix(window.n_mels(), window.frames());
  nb::gil_scoped_release release;
  window.close(out.data());
  return out;
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "Compiled kernels; asa_engine.kernels holds the typed functions over them.";
  m.def("isa", [] { return asa::kernels().isa; });
  m.def("available_isas", &asa::available_isas);
  m.def(
      "log_mel",
      [](Samples samples, int n_mels) {
        asa::LogMelWindow window(n_mels,
                                 samples.size() > asa::kEdge ? samples.size() : asa::kEdge + 1);
        {
          nb::gil_scoped_release release;
          window.push(samples.data(), samples.size());
        }
        return close_window(window);
      },
      "samples"_a.noconvert(), "n_mels"_a);
  nb::class_<asa::LogMelWindow>(m, "LogMelWindow")
      .def(nb::init<int, size_t>(), "n_mels"_a, "window_samples"_a)
      .def_prop_ro("n_mels", &asa::LogMelWindow::n_mels)
      .def_prop_ro("window_samples", &asa::LogMelWindow::window_samples)
      .def_prop_ro("samples", &asa::LogMelWindow::samples)
      .def(
          "push",
          [](asa::LogMelWindow& self, Samples samples) {
            nb::gil_scoped_release release;
            self.push(samples.data(), samples.size());
          },
          "samples"_a.noconvert())
      .def("close", &close_window)
      .def("reset", &asa::LogMelWindow::reset);
}
