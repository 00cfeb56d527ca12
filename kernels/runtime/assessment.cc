// What a stream says of itself, in the words of asa_engine/assessment.schema.json.
#include <numeric>

#include "asa/isa.h"
#include "stream.h"
#include "version.h"

namespace asa {

// Leaves the object open, for further scores.
void Stream::write_scores(JsonWriter& json, const std::vector<float>& scores,
                          double duration_s) const {
  json.open();
  for (std::size_t i = 0; i < config_.aspects.size(); ++i) {
    const Aspect& aspect = config_.aspects[i];
    const double value = aspect.held(scores[i]);
    json.name(aspect.name).open().name("value").number(value);
    json.name("scale_min").number(aspect.scale_min);
    json.name("scale_max").number(aspect.scale_max);
    json.name("level").text(aspect.level_of(value));
    if (!aspect.sd.empty()) json.name("sd").number(aspect.sd_of(value, duration_s));
    json.close();
  }
}

void Stream::write_prior(JsonWriter& json, const std::vector<float>& shares) const {
  const std::vector<double>& levels = config_.prior_levels;
  json.name("prior").open().name("levels").open_list();
  for (const double level : levels) json.number(level);
  json.close_list().name("probabilities").open_list();
  for (const float share : shares) json.number(double{share});
  json.close_list().name("expected");
  json.number(std::inner_product(levels.begin(), levels.end(), shares.begin(), 0.0)).close();
}

std::string Stream::assessment(const Validity& validity, const std::optional<Grade>& grade,
                               const std::optional<ReadingGrade>& reading,
                               double time_to_score_ms) const {
  JsonWriter json;
  json.open().name("schema_version").text(kSchemaVersion).name("grader").text(config_.grader);
  json.name("scores");
  if (reading && validity.scorable) {
    write_reading(json, *reading);
  } else if (grade && validity.scorable) {
    write_scores(json, grade->output.scores, static_cast<double>(grade->samples) / kSampleRate);
    json.close();
    write_prior(json, grade->output.prior);
  } else {
    json.open().close();
  }
  if (reading) write_words(json, *reading);
  json.name("validity").open().name("scorable").truth(validity.scorable);
  json.name("reasons").open_list();
  for (const std::string& reason : validity.reasons) json.text(reason);
  json.close_list().name("peak_dbfs").number(validity.peak_dbfs);
  json.name("rms_dbfs").number(validity.rms_dbfs);
  json.name("clipped_share").number(validity.clipped_share);
  json.name("speech_s").number(validity.speech_s);
  if (validity.snr_db) json.name("snr_db").number(*validity.snr_db);
  const double audio_s = static_cast<double>(samples_) / kSampleRate;
  json.close().name("channels").open().name("count").number(std::size_t{1});
  json.name("used_s").open().name("1").number(audio_s).close().close();
  const double busy_ms =
      spent_.decode + spent_.features + spent_.encoder + spent_.backbone + spent_.head;
  json.name("timing").open().name("audio_s").number(audio_s);
  json.name("decode_ms").number(spent_.decode).name("features_ms").number(spent_.features);
  json.name("encoder_ms").number(spent_.encoder).name("prior_ms").null();
  json.name("backbone_ms");
  reading_ ? json.number(spent_.backbone) : json.null();
  json.name("head_ms").number(spent_.head);
  json.name("time_to_score_ms").number(time_to_score_ms);
  json.name("real_time_factor").number(busy_ms / (1e3 * audio_s));
  json.name("recogniser_ms").null().close();
  write_receipt(json);
  json.close();
  return json.str();
}

void Stream::write_receipt(JsonWriter& json) const {
  json.name("receipt").open().name("engine_version").text(config_.engine_version);
  json.name("bundle").open().name("name").text(config_.bundle);
  json.name("version").text(config_.bundle_version);
  json.name("sha256").text(config_.bundle_sha256).close();
  json.name("artifacts_sha256").open().name("device").text(grader_->file_sha256()).close();
  json.name("backend").text("native").name("precision").text(grader_->precision());
  json.name("chosen").text("by the grader file or by name");
  json.name("threads").number(std::size_t(grader_->threads()));
  json.name("kernel_isa").text(kernels().isa);
  json.name("versions").open().name("libasa").text(kVersion).close();
  json.name("audio_sha256").text(hex(sha256_.digest())).close();
}

}  // namespace asa
