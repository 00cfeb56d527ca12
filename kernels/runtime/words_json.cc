// What a stream says of words and sounds, in the words of asa_engine/assessment.schema.json.
#include <algorithm>

#include "asa/log_mel.h"
#include "stream.h"

namespace asa {
namespace {

constexpr double kWordMost = 10, kPhoneMost = 2;

}  // namespace

void Stream::write_score(JsonWriter& json, double value, double most) const {
  json.open().name("value").number(value).name("scale_min").number(0.0);
  json.name("scale_max").number(most);
}

void Stream::write_reading(JsonWriter& json, const ReadingGrade& grade) const {
  write_scores(json, grade.scores, grade.seconds);
  if (grade.completeness) {
    json.name("completeness");
    write_score(json, *grade.completeness, kWordMost);
    json.close();
  }
  json.close();
}

// Seconds of the recording, not of what the grader heard.
void Stream::write_times(JsonWriter& json, Span frames) const {
  constexpr double sample = 1.0 / kSampleRate;
  const std::vector<Kept>& kept = front_.kept();
  const double start_s = rounded(frames.first / kFramesPerSecond, 3);
  double end_s = rounded(frames.last / kFramesPerSecond, 3);
  // The end of a stretch, not the beginning of the next one.
  if (!kept.empty()) end_s = std::max(source_time_s(kept, end_s - sample) + sample, 0.0);
  json.name("start_s").number(source_time_s(kept, start_s)).name("end_s").number(end_s);
}

void Stream::write_phone(JsonWriter& json, const JudgedPhone& phone) const {
  json.open().name("phone").text(symbol_name(phone.symbol));
  json.name("ipa").text(symbol_ipa(phone.symbol));
  write_times(json, phone.span);
  if (phone.heard) json.name("heard").text(class_name(phone.heard));
  json.name("score");
  write_score(json, phone.score, kPhoneMost);
  json.close().close();
}

// The words, and pace and pauses; a text that was not read has none.
void Stream::write_words(JsonWriter& json, const ReadingGrade& grade) const {
  if (!grade.words.empty()) {
    json.name("words").open_list();
    for (const JudgedWord& word : grade.words) {
      json.open().name("text").text(word.text);
      if (word.span) write_times(json, *word.span);
      json.name("error").text(word.error);
      if (word.confidence) json.name("confidence").number(*word.confidence);
      if (word.score) {
        json.name("score");
        write_score(json, *word.score, kWordMost);
        if (word.sd) json.name("sd").number(*word.sd);
        json.close();
      }
      if (!word.phones.empty()) {
        json.name("phones").open_list();
        for (const JudgedPhone& phone : word.phones) write_phone(json, phone);
        json.close_list();
      }
      json.close();
    }
    json.close_list();
  }
  if (grade.pace.speech_s > 0) {
    const Pace& pace = grade.pace;
    json.name("features").open().name("speech_s").number(pace.speech_s);
    json.name("sounds_per_s").number(pace.sounds_per_s).name("pauses").number(pace.pauses);
    json.name("pauses_s").number(pace.pauses_s);
    json.name("longest_pause_s").number(pace.longest_pause_s);
    json.name("words_per_minute").number(pace.words_per_minute).close();
  }
}

}  // namespace asa
