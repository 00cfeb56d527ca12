// What stands for the CUDA kernels in a build without them: one error, that says what to do.
#include "asa/cuda/model.h"

namespace asa::cuda {
namespace {

[[noreturn]] void fail() {
  throw Unavailable(
      "this asa-engine was built without CUDA kernels; build it where nvcc is, with pip install "
      "--config-settings=cmake.define.ASA_CUDA=ON, or use another backend");
}

}  // namespace

struct Model::Parts {};

Machine machine() { fail(); }
std::size_t Model::need_bytes(const ModelShape&, const Limits&) { fail(); }
Model::Model(const ModelShape&, Format, const Limits&) { fail(); }
Model::~Model() = default;
void Model::set_stem(const StemWeights&) { fail(); }
void Model::set_layer(int, const LayerWeights&) { fail(); }
void Model::set_final_norm(const float*, const float*) { fail(); }
void Model::set_head(const HeadWeights&, const float*, const float*, const std::vector<float>&) {
  fail();
}
const ModelShape& Model::shape() const { fail(); }
const Limits& Model::limits() const { fail(); }
void Model::encode(const Batch&) { fail(); }
void Model::score(const float*, int, float*, float*) { fail(); }
float Model::time(const Batch&, int) { fail(); }

}  // namespace asa::cuda
