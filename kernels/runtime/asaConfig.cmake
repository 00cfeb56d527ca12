# find_package(asa) gives asa::asa, the static library, and asa::asa_shared.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include(${CMAKE_CURRENT_LIST_DIR}/asaTargets.cmake)
