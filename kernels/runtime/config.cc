#include "config.h"

#include <algorithm>
#include <cmath>
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

double table_at(const std::vector<std::pair<double, double>>& table, double x) {
  const auto after =
      std::find_if(table.begin(), table.end(), [&](const auto& pair) { return pair.first > x; });
  if (after == table.end()) return table.back().second;
  if (after == table.begin()) return after->second;
  const auto [x0, y0] = *(after - 1);
  const auto [x1, y1] = *after;
  return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
}

double rounded(double value, int decimals) {
  const double scale = std::pow(10.0, decimals);
  return std::nearbyint(value * scale) / scale;
}

double Aspect::sd_of(double value, double duration_s) const {
  const double found = table_at(sd, duration_s);
  return sd_by_score.empty() ? found : rounded(found * table_at(sd_by_score, value), 3);
}

}  // namespace asa
