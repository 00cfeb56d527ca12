#include "config.h"

#include <algorithm>
#include <cstdio>

namespace asa {

double Aspect::held(double value) const { return std::clamp(value, scale_min, scale_max); }

std::string Aspect::level_of(double value) const {
  std::size_t level = 0;
  for (const double cut : level_cuts) level += value >= cut;
  if (!level_names.empty()) return level_names[level];
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", scale_min + static_cast<double>(level));
  return text;
}

double Aspect::sd_at(double duration_s) const {
  const auto after =
      std::find_if(sd.begin(), sd.end(), [&](const auto& pair) { return pair.first > duration_s; });
  if (after == sd.end()) return sd.back().second;
  if (after == sd.begin()) return after->second;
  const auto [t0, sd0] = *(after - 1);
  const auto [t1, sd1] = *after;
  return sd0 + (sd1 - sd0) * (duration_s - t0) / (t1 - t0);
}

}  // namespace asa
