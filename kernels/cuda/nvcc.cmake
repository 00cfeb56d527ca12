# nvcc, for every target that compiles CUDA or links what was compiled.
set(ASA_CUDA_ARCHITECTURES "80-real;86-real;87-real;89-real;90;120-real"  # and PTX for those between and after
    CACHE STRING "Compute capabilities to compile for, as in CMAKE_CUDA_ARCHITECTURES")
set(CMAKE_CUDA_ARCHITECTURES ${ASA_CUDA_ARCHITECTURES})
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
