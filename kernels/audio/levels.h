// Levels in decibels: 0 dBFS is a mean square of 1.
#pragma once

#include <algorithm>
#include <cmath>

namespace asa {

inline constexpr double kFloorDbfs = -120.0;

inline double power_of_db(double db) { return std::pow(10.0, db / 10); }

inline double dbfs(double power) {
  return power > 0 ? std::max(10 * std::log10(power), kFloorDbfs) : kFloorDbfs;
}

}  // namespace asa
