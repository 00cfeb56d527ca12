# The few commands a person types. Everything is installed into .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find kernels CMakeLists.txt pyproject.toml -type f 2>/dev/null)
CMAKE := cmake -S . --no-warn-unused-cli
JOBS ?= $(shell nproc)
DEMO_AUDIO ?= examples/audio/demo.flac
ASA_SHARED ?= ../shared
NVCC ?= $(or $(shell command -v nvcc),$(abspath build/cuda-toolkit/nvidia/cu13/bin/nvcc))
SPEECH ?= $(ASA_SHARED)/data/speechocean762/train.jsonl

.PHONY: help demo test kernel-tests sanitize sanitize-address sanitize-undefined neon lint format bench \
	bench-smoke cuda cuda-tests bundles gpu-engines triton-kernels clean

help:
	@echo "make demo         install, then score a recording as a live stream"
	@echo "make test         install with all that the tests need, then run them"
	@echo "make kernel-tests the compiled kernels' own tests"
	@echo "make sanitize     the same, and fuzzing from Python, under ASan and UBSan"
	@echo "make neon         the same, compiled for ARM and run under qemu-user"
	@echo "make cuda         the CUDA kernels, by nvcc, for every architecture; checked where a GPU is"
	@echo "make cuda-tests   the same sources on an emulated GPU"
	@echo "make lint         ruff, mypy and clang-format"
	@echo "make format       let ruff and clang-format rewrite the sources"
	@echo "make bench        every benchmark; writes benchmarks/results"
	@echo "make bundles      a bundle of every grader in models/, in build/bundles"
	@echo "make bench-smoke  the same, so short that its figures mean nothing"
	@echo "make triton-kernels  the Triton kernels, for every architecture, built without a GPU"
	@echo "make gpu-engines  TensorRT-RTX engines of the shipped grader, built without a GPU"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.run: $(BIN)/python $(SOURCES)
	test -e $(VENV)/.dev || $(BIN)/pip install --quiet .
	touch $@

$(VENV)/.dev: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: $(VENV)/.run
	cd examples && ../$(BIN)/asa-engine assess ../$(DEMO_AUDIO) --stream --live

test: $(VENV)/.dev
	$(BIN)/pytest

kernel-tests:
	$(CMAKE) -B build/kernels -DASA_PYTHON=OFF -DASA_TESTS=ON -DASA_BENCH=ON
	cmake --build build/kernels --parallel $(JOBS)
	ctest --test-dir build/kernels --output-on-failure

sanitize: sanitize-address sanitize-undefined

# The tests of what Python sees run on a module built with ASan. Python itself is not, so the
# library comes first in every process (with libstdc++, whose exceptions it watches), and what the
# interpreter still holds at its end is no leak.
sanitize-address: $(VENV)/.dev
	$(CMAKE) -B build/address -DASA_TESTS=ON -DASA_CUDA=EMULATED -DASA_SANITIZE=address \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/address --parallel $(JOBS)
	ctest --test-dir build/address --output-on-failure
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=tests/kernels/sanitized \
	ASA_KERNELS_MODULE=$$(echo $(abspath build/address)/kernels/_kernels.*.so) \
	ASA_CUDA_MODULE=$$(echo $(abspath build/address)/kernels/_cuda.*.so) \
	$(BIN)/python -m pytest tests/kernels tests/gpu/test_cuda_kernels.py \
		-k "not hugging_face and not real_weights"

sanitize-undefined:
	$(CMAKE) -B build/undefined -DASA_PYTHON=OFF -DASA_TESTS=ON -DASA_CUDA=EMULATED -DASA_SANITIZE=undefined
	cmake --build build/undefined --parallel $(JOBS)
	ctest --test-dir build/undefined --output-on-failure

neon:
	$(CMAKE) -B build/neon -DASA_PYTHON=OFF -DASA_TESTS=ON \
		-DCMAKE_TOOLCHAIN_FILE=kernels/aarch64-toolchain.cmake
	cmake --build build/neon --parallel $(JOBS)
	ctest --test-dir build/neon --output-on-failure

# nvcc as PyPI has it, where none is installed; it looks for its libraries in lib64.
$(abspath build/cuda-toolkit/nvidia/cu13/bin/nvcc): | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/cuda-toolkit \
		nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
		nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
	ln -sfn lib build/cuda-toolkit/nvidia/cu13/lib64

# Without a GPU parity is skipped, and the Python tests see that the module says so.
cuda: $(VENV)/.dev | $(NVCC)
	$(CMAKE) -B build/cuda -DASA_TESTS=ON -DASA_CUDA=ON -DCMAKE_CUDA_COMPILER=$(NVCC) \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/cuda --parallel $(JOBS) --target parity _cuda
	ctest --test-dir build/cuda --output-on-failure -R cuda
	PYTHONPATH=tests/kernels/sanitized ASA_CUDA_MODULE=$$(echo $(abspath build/cuda)/kernels/_cuda.*.so) \
	$(BIN)/python -m pytest tests/gpu/test_cuda_kernels.py

cuda-tests: $(VENV)/.dev
	$(CMAKE) -B build/emulated -DASA_TESTS=ON -DASA_CUDA=EMULATED -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/emulated --parallel $(JOBS) --target parity test_emulation _cuda
	ctest --test-dir build/emulated --output-on-failure -R cuda
	PYTHONPATH=tests/kernels/sanitized ASA_CUDA_MODULE=$$(echo $(abspath build/emulated)/kernels/_cuda.*.so) \
	$(BIN)/python -m pytest tests/gpu/test_cuda_kernels.py

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	git ls-files '*.h' '*.cc' '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	git ls-files '*.h' '*.cc' '*.cu' | xargs $(BIN)/clang-format -i

bench: $(VENV)/.dev
	$(BIN)/asa-engine bench

bench-smoke: $(VENV)/.dev
	$(BIN)/asa-engine bench --smoke --output build/bench

bundles: $(VENV)/.dev
	$(BIN)/python -m asa_export.bundles models build/bundles $(SPEECH)

gpu-engines: $(VENV)/.dev
	$(BIN)/pip install --quiet "tensorrt-rtx>=1.4"
	$(BIN)/asa-engine export default --output build/gpu --force --target tensorrt \
		--precision fp16,bf16,int8 --compute-capability 8.6,8.9,12.0

triton-kernels: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu.compiles

clean:
	rm -rf build dist $(VENV)
