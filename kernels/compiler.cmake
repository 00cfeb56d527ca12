# Refuses compilers older than those the kernels are built and tested with: C++20, and the
# intrinsics of AVX-512 BF16. Also a script: cmake -D CMAKE_CXX_COMPILER_ID=... -P compiler.cmake
set(_minimum_GNU 12)
set(_minimum_Clang 14)
set(_minimum_AppleClang 14)
set(_minimum ${_minimum_${CMAKE_CXX_COMPILER_ID}})
if(NOT _minimum)
  message(WARNING "asa_engine is tested with GCC and Clang, not with ${CMAKE_CXX_COMPILER_ID}.")
elseif(CMAKE_CXX_COMPILER_VERSION VERSION_LESS _minimum)
  message(FATAL_ERROR "asa_engine needs GCC 12, Clang 14 or newer; ${CMAKE_CXX_COMPILER} is "
    "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}. Name a newer one: export CXX=g++-12")
endif()
