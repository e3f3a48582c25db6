pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode.set(RepositoriesMode.FAIL_ON_PROJECT_REPOS)
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = {{ name|kotlin_text }}
include(":app")
{% if packed %}
include(":ai_pack") // the files for the phones' NPUs, which Google Play delivers
{% endif %}
