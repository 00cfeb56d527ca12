# Cross-compiles the kernels for 32-bit ARM and runs their tests under qemu-user:
#   cmake -B build/arm32 -DCMAKE_TOOLCHAIN_FILE=kernels/armv7-toolchain.cmake \
#         -DASA_PYTHON=OFF -DASA_TESTS=ON
#   cmake --build build/arm32 && ctest --test-dir build/arm32 --output-on-failure
# Debian packages: g++-arm-linux-gnueabihf, qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR armv7)
set(CMAKE_C_COMPILER arm-linux-gnueabihf-gcc)
set(CMAKE_CXX_COMPILER arm-linux-gnueabihf-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-arm;-L;/usr/arm-linux-gnueabihf)
