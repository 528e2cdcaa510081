// What a C++ program takes for granted: constructors, exceptions, threads with storage of their own, the library.
#include <iostream>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {
struct Early {
	Early() { std::cout << "before main\n"; }
	~Early() { std::cout << "after main" << std::endl; }
} early;

thread_local int own = 5;

int deep(int depth)
{
	struct Guard {
		int &count;
		~Guard() { count++; }
	};
	static int unwound;
	if (depth == 0)
		throw std::runtime_error("thrown");
	Guard guard{unwound};
	try {
		deep(depth - 1);
	} catch (const std::logic_error &) {
		return -1;
	}
	return unwound;
}
}

int main(int count, char **)
{
	std::map<std::string, int> numbers{{"one", 1}, {"two", 2}};
	for (const auto &number : numbers)
		std::cout << number.first << "=" << number.second << "\n";
	try {
		deep(10);
	} catch (const std::exception &error) {
		std::cout << "caught " << error.what() << "\n";
	}
	try {
		std::stoi("none");
	} catch (const std::invalid_argument &) {
		std::cout << "caught from the library\n";
	}
	std::vector<std::thread> threads;
	std::mutex mutex;
	int sum = 0, caught = 0;
	for (int i = 0; i < 4; i++)
		threads.emplace_back([&, i] {
			own += i;
			for (int round = 0; round < 100; round++)
				try {
					throw round;
				} catch (int) {
					std::lock_guard<std::mutex> held(mutex);
					caught++;
				}
			std::lock_guard<std::mutex> held(mutex);
			sum += own;
		});
	for (auto &thread : threads)
		thread.join();
	std::cout << "sum " << sum << ", caught " << caught << ", own " << own << ", " << count << " arguments" << std::endl;
	return sum;
}
