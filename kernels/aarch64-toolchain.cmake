# Cross-compiles the kernels for 64-bit ARM and runs their tests under qemu-user:
#   cmake -B build/arm -DCMAKE_TOOLCHAIN_FILE=kernels/aarch64-toolchain.cmake \
#         -DASA_PYTHON=OFF -DASA_TESTS=ON
#   cmake --build build/arm && ctest --test-dir build/arm --output-on-failure
# Debian packages: g++-aarch64-linux-gnu, qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-L;/usr/aarch64-linux-gnu)
