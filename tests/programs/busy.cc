// Strings, maps, sorting through a function object, a regular expression and exceptions until it is killed.
#include <algorithm>
#include <functional>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

static volatile std::size_t sink;

static int parse(const std::string &text) {
    return std::stoi(text);
}

int main() {
    const std::regex pattern("([a-z]+)-([0-9]+)");
    std::function<bool(const std::string &, const std::string &)> less = [](const auto &a, const auto &b) {
        return std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend());
    };
    for (int round = 0;; round++) {
        std::map<std::string, int> counts;
        std::vector<std::string> names;
        for (int i = 0; i < 500; i++) {
            std::string name = "name-" + std::to_string(i * round % 997);
            std::smatch match;
            if (std::regex_match(name, match, pattern)) counts[match[2]]++;
            names.push_back(std::move(name));
        }
        std::sort(names.begin(), names.end(), less);
        for (int i = 0; i < 20; i++) {
            try {
                sink = sink + static_cast<std::size_t>(parse(i % 2 ? "12" : "no number"));
            } catch (const std::invalid_argument &) {
                sink = sink + 1;
            }
        }
        sink = sink + counts.size() + names.size();
    }
}
